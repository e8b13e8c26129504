"""A warm process that only forks: it has imported everything, and its children are shims within a millisecond."""
