;; Exports functions, but none that a command begins with.
(module (func (export "other")) (func (export "with_argument") (param i32)))
