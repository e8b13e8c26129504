"""containerd's Task API: its states, events and options as values, and the service that carries it out.

Empty on purpose: the pure modules must not cost the import of a protobuf runtime.
"""
