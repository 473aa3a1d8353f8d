pub fn run(_args: crate::config::StartArgs) -> anyhow::Result<()> {
    Ok(())
}
