;; Imports a function that nobody has: it cannot be linked.
(module (import "nobody" "nothing" (func)) (func (export "_start")))
