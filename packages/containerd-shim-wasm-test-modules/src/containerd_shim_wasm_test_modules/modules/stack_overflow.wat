;; Calls itself until the stack is full.
(module (func $again (export "_start") (call $again)))
