"""What the integration tests stand on: private containerds, images made on the spot, a counter of what is left."""
