;; Prints 16 random bytes in hexadecimal.
(module
  (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func $digit (param $value i32) (result i32)  ;; "0" to "9", and 39 further "a" to "f"
    (i32.add (i32.add (i32.const 48) (local.get $value))
      (i32.mul (i32.const 39) (i32.gt_u (local.get $value) (i32.const 9)))))
  (func (export "_start") (local $i i32) (local $byte i32)
    (drop (call $random_get (i32.const 64) (i32.const 16)))
    (loop $next
      (local.set $byte (i32.load8_u offset=64 (local.get $i)))
      (i32.store8 offset=128 (i32.mul (local.get $i) (i32.const 2))
        (call $digit (i32.shr_u (local.get $byte) (i32.const 4))))
      (i32.store8 offset=129 (i32.mul (local.get $i) (i32.const 2))
        (call $digit (i32.and (local.get $byte) (i32.const 15))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $i) (i32.const 16))))
    (i32.store8 (i32.const 160) (i32.const 10))
    (i32.store (i32.const 0) (i32.const 128))
    (i32.store (i32.const 4) (i32.const 33))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))
