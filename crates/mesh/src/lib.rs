//! What the mesh is: nodes, peers, locations, leaders, topology, WireGuard configuration.
