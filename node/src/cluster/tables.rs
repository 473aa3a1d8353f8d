//! The control tables as this node last saw them: nodes, slots, placement, settings, keys.
//!
//! Invariant: only a higher version replaces a table. What is read here may be old; apply decides.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_machine::query::{ControlState, NodeRow};
use flotilla_proto::ids::*;
use tokio::sync::watch;

use super::wire::Plan;

pub struct Tables {
    current: watch::Sender<Option<Arc<ControlState>>>,
}

impl Default for Tables {
    fn default() -> Self {
        Self { current: watch::channel(None).0 }
    }
}

impl Tables {
    pub fn current(&self) -> Option<Arc<ControlState>> {
        self.current.borrow().clone()
    }

    pub fn watch(&self) -> watch::Receiver<Option<Arc<ControlState>>> {
        self.current.subscribe()
    }

    pub fn version(&self) -> u64 {
        self.current.borrow().as_ref().map_or(0, |s| s.version)
    }

    /// Takes newer tables; says whether they were.
    pub fn offer(&self, state: ControlState) -> bool {
        self.current.send_if_modified(|current| {
            let newer = current.as_ref().is_none_or(|old| state.version > old.version);
            if newer {
                *current = Some(Arc::new(state));
            }
            newer
        })
    }

    /// The row of a node.
    pub fn node(&self, node: NodeId) -> Option<NodeRow> {
        self.current()?.nodes.iter().find(|row| row.info.node == node).cloned()
    }

    /// The lowest incarnation of every node that may still hold sessions.
    pub fn lowest_incarnations(&self) -> BTreeMap<NodeId, Incarnation> {
        let Some(state) = self.current() else { return BTreeMap::new() };
        state
            .nodes
            .iter()
            .map(|row| (row.info.node, Incarnation(row.incarnation.0.saturating_add(u64::from(row.lapsed)))))
            .collect()
    }
}

/// The tables that a plan makes before the control group has applied anything.
pub fn from_plan(plan: &Plan) -> ControlState {
    let row = |info: &_| NodeRow { info: Clone::clone(info), incarnation: Incarnation(0), boot: 0, lapsed: false };
    ControlState {
        version: 0,
        cluster: plan.cluster,
        epoch: plan.epoch,
        slots: plan.slots.clone(),
        settings: plan.settings.clone(),
        placement: plan.placement.clone(),
        nodes: plan.nodes.iter().map(row).collect(),
        keys: plan.keys.clone(),
        retiring: vec![],
        fences_owed: vec![],
    }
}
