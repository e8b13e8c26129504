"""`containerd-shimkit`, the operator's command. Nothing that containerd waits for imports this room, or click."""
