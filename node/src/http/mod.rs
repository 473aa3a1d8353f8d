//! Accept loop, REST, health.
