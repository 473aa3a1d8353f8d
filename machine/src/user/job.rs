//! Table `user_job`: work that one command may not finish, and the steps that do.
//!
//! Keys: `3a`, then 1, node u16 (sweep of a node's dead sessions) or 2, user text, device u128 (cursors of a revoked
//! device). Invariant: a job's row stays until nothing is left for it; a step touches at most `SWEEP_ROWS_MAX` items.

use std::ops::ControlFlow;

use flotilla_proto::ids::*;
use flotilla_proto::limits;
use flotilla_proto::plant::{self, Plant};

use super::{cursor, key, presence, session};
use crate::Fatal;
use crate::apply::{Ctx, Outcome};
use crate::effect::{Effect, Ended};
use crate::meta;
use crate::reply::Reply;
use crate::table::{self, KeyBuilder, KeyReader, Rows, Table, kind};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// End the sessions of this node below its fence.
    Sweep(NodeId),
    RemoveCursors(UserId, DeviceId),
}

pub struct JobTable;

impl Table for JobTable {
    const NAME: &'static str = "user_job";
    const KIND: u8 = kind::USER_JOB;
    const VERSION: u8 = 1;
    type Key = Job;
    type Row = ();

    fn key(job: &Job) -> Vec<u8> {
        let key = KeyBuilder::new(Self::KIND);
        match job {
            Job::Sweep(node) => key.u8(1).u16(node.0).build(),
            Job::RemoveCursors(user, device) => key.u8(2).user(user).u128(device.0).build(),
        }
    }

    fn parse(key: &mut KeyReader<'_>) -> Option<Job> {
        match key.u8()? {
            1 => Some(Job::Sweep(NodeId(key.u16()?))),
            2 => Some(Job::RemoveCursors(key.user()?, key::device(key)?)),
            _ => None,
        }
    }
}

fn first(rows: &dyn Rows) -> Result<Option<Job>, Fatal> {
    let mut first = None;
    table::scan_prefix::<JobTable>(rows, &[kind::USER_JOB], &mut |job, ()| {
        first = Some(job);
        ControlFlow::Break(())
    })?;
    Ok(first)
}

/// Rows wait for `StepJob`.
pub fn job_due(rows: &dyn Rows) -> Result<bool, Fatal> {
    Ok(first(rows)?.is_some())
}

/// Does at most `budget` items of a job; gives how many it did and whether some are left.
fn run(ctx: &mut Ctx<'_, '_>, job: &Job, budget: usize) -> Result<(usize, bool), Fatal> {
    match job {
        Job::Sweep(node) => {
            let lowest = meta::fence(ctx.txn, *node)?;
            let (dead, more) = session::dead(ctx.txn, *node, lowest, budget)?;
            for (user, device) in dead.iter().filter(|_| !plant::on(Plant::DeadIncarnation)) {
                session::end(ctx, user, *device, Ended::Fenced)?;
            }
            Ok((dead.len(), more && !plant::on(Plant::DeadIncarnation)))
        }
        Job::RemoveCursors(user, device) => cursor::remove_some(ctx.txn, user, *device, budget),
    }
}

/// Runs a job's first step; its row is made only if more is left.
fn start(ctx: &mut Ctx<'_, '_>, job: &Job, budget: usize) -> Result<bool, Fatal> {
    let (_, more) = run(ctx, job, budget)?;
    let known = table::get::<JobTable>(ctx.txn, job)?.is_some();
    match (more, known) {
        (true, false) => table::put::<JobTable>(ctx.txn, job, &()),
        (false, true) => table::delete::<JobTable>(ctx.txn, job),
        _ => {}
    }
    if more {
        ctx.effects.push(Effect::Job);
    }
    Ok(more)
}

fn budget(ctx: &Ctx<'_, '_>, limit: u32) -> usize {
    // Since presence is kept, a session that ends touches one row more.
    let max = if ctx.meta.has_level(presence::LEVEL) { limits::SWEEP_SESSIONS_MAX } else { limits::SWEEP_ROWS_MAX };
    (limit as usize).clamp(1, max)
}

/// Raises the node's fence (it never goes down) and ends the sessions below it, the rest by a job.
pub fn fence(ctx: &mut Ctx<'_, '_>, node: NodeId, lowest: Incarnation, limit: u32) -> Outcome {
    if plant::on(Plant::ForgetFence) {
        return Ok(Reply::Step { more: false });
    }
    meta::raise_fence(ctx.txn, node, lowest)?;
    let budget = budget(ctx, limit);
    let more = start(ctx, &Job::Sweep(node), budget)?;
    Ok(Reply::Step { more })
}

pub fn remove_cursors(ctx: &mut Ctx<'_, '_>, user: &UserId, device: DeviceId) -> Result<(), Fatal> {
    start(ctx, &Job::RemoveCursors(user.clone(), device), limits::SWEEP_ROWS_MAX).map(|_| ())
}

/// Goes on with the jobs in key order until `limit` items are done.
pub fn step_job(ctx: &mut Ctx<'_, '_>, limit: u32) -> Outcome {
    let mut left = budget(ctx, limit);
    while left > 0 {
        let Some(job) = first(ctx.txn)? else { break };
        let (done, more) = run(ctx, &job, left)?;
        if !more {
            table::delete::<JobTable>(ctx.txn, &job);
        }
        // The job's own row counts too, so that many short jobs are bounded like one long one.
        left = left.saturating_sub(done.saturating_add(1));
    }
    let more = job_due(ctx.txn)?;
    if more {
        ctx.effects.push(Effect::Job);
    }
    Ok(Reply::Step { more })
}
