"""The admin API: what a running runtime tells about itself, and the commands it takes."""
