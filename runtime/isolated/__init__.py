"""What runs in worker processes: the zygote that they are forked from, and what serves calls in each."""
