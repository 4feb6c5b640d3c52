//! Real Redis servers for tests: standalone, Sentinel and Cluster, on free ports of the loopback.
