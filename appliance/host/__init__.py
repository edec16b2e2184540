"""What knows the machine and not the product: the build, systemd, installing, backup."""
