;; A command of WASI 0.2: exports wasi:cli/run, prints "Hello, world!" by wasi:cli/stdout.
(component
  (import "wasi:io/error@0.2.0" (instance $error (export "error" (type (sub resource)))))
  (alias export $error "error" (type $io-error))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (alias outer 1 $io-error (type $outer-error))
    (export "error" (type $stream-io-error (eq $outer-error)))
    (export "output-stream" (type $output-stream (sub resource)))
    (type $stream-error-variant (variant (case "last-operation-failed" (own $stream-io-error)) (case "closed")))
    (export "stream-error" (type $stream-error (eq $stream-error-variant)))
    (export "[method]output-stream.blocking-write-and-flush"
      (func (param "self" (borrow $output-stream)) (param "contents" (list u8))
        (result (result (error $stream-error)))))))
  (alias export $streams "output-stream" (type $output))
  (import "wasi:cli/stdout@0.2.0" (instance $stdout
    (alias outer 1 $output (type $outer-output))
    (export "output-stream" (type $stdout-stream (eq $outer-output)))
    (export "get-stdout" (func (result (own $stdout-stream))))))
  (core module $memory-module (memory (export "memory") 1) (data (i32.const 16) "Hello, world!\n"))
  (core instance $memory (instantiate $memory-module))
  (alias core export $memory "memory" (core memory $mem))
  (core func $get-stdout (canon lower (func $stdout "get-stdout")))
  (core func $write (canon lower (func $streams "[method]output-stream.blocking-write-and-flush") (memory $mem)))
  (core module $main
    (import "memory" "memory" (memory 1))
    (import "host" "get-stdout" (func $get-stdout (result i32)))
    (import "host" "write" (func $write (param i32 i32 i32 i32)))
    (func (export "run") (result i32)
      (call $write (call $get-stdout) (i32.const 16) (i32.const 14) (i32.const 0))
      (i32.load8_u (i32.const 0))))  ;; whether that was an error is whether this is one
  (core instance $instance (instantiate $main (with "memory" (instance $memory)) (with "host" (instance
    (export "get-stdout" (func $get-stdout)) (export "write" (func $write))))))
  (func $run (result (result)) (canon lift (core func $instance "run")))
  (instance $run-instance (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $run-instance)))
