//! The workload `channel` needs pull mode (read fan-out), which this version of the server has not.

/// Says so, and fails: nothing is measured in its place.
pub fn command() -> anyhow::Result<crate::Outcome> {
    anyhow::bail!(
        "the workload `channel` needs pull mode (conversations of more than 100 members, read from the log), which this version does not have yet; `group` measures write fan-out up to 500 members"
    )
}
