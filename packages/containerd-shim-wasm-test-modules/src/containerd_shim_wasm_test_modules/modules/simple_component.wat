;; A component without imports: `thunk` returns, `thunk-trap` traps.
(component
  (core module $core
    (func (export "thunk"))
    (func (export "thunk-trap") unreachable))
  (core instance $instance (instantiate $core))
  (func (export "thunk") (canon lift (core func $instance "thunk")))
  (func (export "thunk-trap") (canon lift (core func $instance "thunk-trap"))))
