//! `flotilla start`: one node on RocksDB, until a signal or a fatal reason.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use flotilla_machine::command::NodeInfo;
use flotilla_proto::ids::NodeId;
use flotilla_raft::Timings;

use crate::auth::courier::{Delivery, Webhook};
use crate::auth::issuer;
use crate::auth::password::Passwords;
use crate::config::{AuthMode, Config, StartArgs};
use crate::gateway::shared::{DevControl, Options as ClientOptions};
use crate::metrics::Registry;
use crate::node::{Node, NodeOptions};
use crate::outgoing::Outgoing;

/// A shorter one could be guessed from one signature.
const SECRET_BYTES_MIN: usize = 16;

pub fn run(args: StartArgs) -> anyhow::Result<()> {
    super::heaps::bound();
    let dev_control = args.dev_control.as_deref().and_then(DevControl::parse);
    let config = Config::resolve(args)?;
    let connections_max = super::open_files::raise();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = config.threads {
        runtime.worker_threads(threads.into());
    }
    runtime.enable_all().build()?.block_on(serve(config, dev_control, connections_max))
}

async fn serve(config: Config, dev_control: Option<DevControl>, connections_max: usize) -> anyhow::Result<()> {
    let mut node = Node::start(options(&config, dev_control, connections_max)?).await?;
    tracing::info!(
        node = config.node,
        clients = %config.client_url,
        peers = %config.peer_addr,
        data = %config.data_dir.display(),
        "started"
    );
    tokio::select! {
        biased;
        reason = node.fatal.recv() => abort(&config, &reason.unwrap_or_default()),
        done = flotilla_raft::seam::signal::stop() => done?,
    }
    tracing::info!(node = config.node, "stopping: handing leaderships over");
    if let Err(reason) = node.shutdown().await {
        abort(&config, &reason);
    }
    tracing::info!(node = config.node, "stopped");
    Ok(())
}

/// Nothing is said to peers or clients: nothing that this process says can be trusted now.
fn abort(config: &Config, reason: &str) -> ! {
    eprintln!("flotilla: node {} stops: {reason}", config.node);
    std::process::abort();
}

fn options(config: &Config, dev_control: Option<DevControl>, connections_max: usize) -> anyhow::Result<NodeOptions> {
    let dir = &config.data_dir;
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create the data directory {}", dir.display()))?;
    let registry = Arc::new(Registry::default());
    let engine = engine(config, &registry)?;
    if config.auth == AuthMode::Dev && !is_loopback(&config.client_addr) {
        bail!(
            "--auth dev lets anyone be anyone: it is for loopback only, and --client-addr {} is not",
            config.client_addr
        );
    }
    let election = Duration::from_millis(config.election_ms);
    Ok(NodeOptions {
        info: NodeInfo {
            node: NodeId(config.node),
            peer_addr: config.peer_advertise.clone(),
            client_url: config.client_url.clone(),
        },
        client_addr: config.client_addr.clone(),
        peer_addr: config.peer_addr.clone(),
        insecure_peers: config.insecure_peers,
        lease: Duration::from_millis(config.lease_ms),
        timings: Timings {
            heartbeat: Duration::from_millis(config.heartbeat_ms),
            election_min: election,
            election_max: election * 2,
            snapshot_entries: config.snapshot_entries,
            kept_entries: config.snapshot_entries,
            ..Timings::default()
        },
        clients: ClientOptions {
            dev_auth: config.auth == AuthMode::Dev,
            origins: if config.origins.is_empty() { vec![config.client_url.clone()] } else { config.origins.clone() },
            // Without demo users there is no local cluster to play with.
            dev_control: dev_control.filter(|_| config.auth == AuthMode::Dev),
            sends_per_user: config.sends_per_user,
            sends_per_conversation: config.sends_per_conversation,
            logins_per_minute: config.logins_per_minute,
            connections_max,
            connections_per_address_max: config.connections_per_address,
            codes: delivery(config)?,
            issuer: issuer(config)?,
            ..ClientOptions::default()
        },
        passwords: Passwords::production(),
        engine,
        watermark: Arc::new(flotilla_storage::watermark::WatermarkFile::new(dir.join("watermark"))),
        registry,
        disk_low: disk_low(config),
    })
}

fn outgoing(config: &Config) -> anyhow::Result<Outgoing> {
    Outgoing::new(config.trust_file.as_deref()).map_err(anyhow::Error::msg)
}

fn delivery(config: &Config) -> anyhow::Result<Delivery> {
    let Some((url, file)) = &config.code_webhook else {
        return Ok(if config.auth == AuthMode::Dev { Delivery::Log } else { Delivery::Off });
    };
    let secret = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let secret = secret.trim_end_matches(['\r', '\n']).as_bytes();
    if secret.len() < SECRET_BYTES_MIN {
        bail!("{}: the webhook's secret has less than {SECRET_BYTES_MIN} bytes", file.display());
    }
    Ok(Delivery::Webhook(Webhook { url: url.clone(), secret: secret.into(), outgoing: outgoing(config)? }))
}

fn issuer(config: &Config) -> anyhow::Result<Option<issuer::Config>> {
    let Some(settings) = config.issuer.clone() else { return Ok(None) };
    Ok(Some(issuer::Config { settings, outgoing: outgoing(config)? }))
}

fn is_loopback(addr: &str) -> bool {
    use std::net::ToSocketAddrs;
    addr.to_socket_addrs().is_ok_and(|mut all| all.all(|a| a.ip().is_loopback()))
}

fn disk_low(config: &Config) -> Arc<dyn Fn() -> bool + Send + Sync> {
    let (dir, reserve) = (config.data_dir.clone(), config.disk_reserve_mib * 1024 * 1024);
    Arc::new(move || match rustix::fs::statvfs(&dir) {
        Ok(disk) => disk.f_bavail.saturating_mul(disk.f_frsize) < reserve,
        Err(error) => {
            tracing::warn!(%error, dir = %dir.display(), "cannot ask for the disk's free space");
            false
        }
    })
}

#[cfg(feature = "rocksdb")]
fn engine(config: &Config, registry: &Registry) -> anyhow::Result<Arc<dyn flotilla_storage::Engine>> {
    use flotilla_storage::rocks::{OnSync, RocksEngine, RocksOptions};
    let syncs = registry.histogram("flotilla_fsync_seconds", "Synced writes of the log.", &[]);
    let on_sync: OnSync = Arc::new(move |took| syncs.observe(took));
    let options = RocksOptions { number: config.node, on_sync: Some(on_sync), ..RocksOptions::default() };
    let engine = Arc::new(RocksEngine::open(&config.data_dir.join("db"), options)?);
    let figures = Arc::downgrade(&engine);
    registry.on_page(move |page| {
        let Some(engine) = figures.upgrade() else { return };
        page.head("flotilla_storage_memory_bytes", "What RocksDB holds in memory.", "gauge");
        let stats = engine.stats();
        page.sample("flotilla_storage_memory_bytes", &[], stats.memory_bytes() as f64);
        let help = "Of it, what is not in tables yet. The log is synced; after a kill it brings back what was applied of this.";
        page.head("flotilla_storage_memtable_bytes", help, "gauge");
        page.sample("flotilla_storage_memtable_bytes", &[], stats.memtable_bytes as f64);
    });
    Ok(engine)
}

#[cfg(not(feature = "rocksdb"))]
fn engine(_config: &Config, _registry: &Registry) -> anyhow::Result<Arc<dyn flotilla_storage::Engine>> {
    bail!("this binary was built without the feature `rocksdb` and cannot keep data")
}
