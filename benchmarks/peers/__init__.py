"""What train_vs_peers.py is made of: the programs compared, the store of their runs, latency and the report."""
