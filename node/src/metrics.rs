//! A small registry of counters, gauges and histograms.
