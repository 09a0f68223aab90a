"""What a node is, by subject. Each module yields facts; one that cannot be read has the value None and says why.

Files are read below a root, so that a folder can stand for a machine. Nothing that names a machine to outsiders
(addresses, serial numbers, ids of volumes, the whole kernel command line) is collected.
"""
