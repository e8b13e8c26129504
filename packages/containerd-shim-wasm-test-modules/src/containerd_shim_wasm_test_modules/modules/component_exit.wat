;; A command of WASI 0.2 that ends by wasi:cli/exit with an error: status 1.
(component
  (import "wasi:cli/exit@0.2.0" (instance $exit (export "exit" (func (param "status" (result))))))
  (core func $exit-core (canon lower (func $exit "exit")))
  (core module $main
    (import "host" "exit" (func $exit (param i32)))
    (func (export "run") (result i32) (call $exit (i32.const 1)) (i32.const 0)))
  (core instance $instance (instantiate $main (with "host" (instance (export "exit" (func $exit-core))))))
  (func $run (result (result)) (canon lift (core func $instance "run")))
  (instance $run-instance (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $run-instance)))
