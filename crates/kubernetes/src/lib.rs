//! Nodes and Peers of the Kubernetes API, decoded, watched and patched.
