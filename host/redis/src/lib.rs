//! The Redis engine: publications, history and presence that many nodes share, and what the nodes tell each other.
