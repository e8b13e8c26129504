"""`containerd-shimkit-oci`: native containers by the command line that other OCI runtimes have too."""
