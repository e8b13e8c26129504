"""The static program that containerd executes, as C sources, and what prepares it for one command."""
