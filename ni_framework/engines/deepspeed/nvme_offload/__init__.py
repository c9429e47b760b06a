"""Offloading to NVMe disks: the folder, groups of parameters while they are in memory, and aligned reads and writes."""
