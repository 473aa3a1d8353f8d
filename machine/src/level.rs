//! From which feature level on a shard's log may hold a command.

use flotilla_proto::limits;

use crate::command::{Command, Control};
use crate::reply::Rejection;

impl Command {
    /// The feature level from which a log may hold it. Below that a replica may run an older build, which cannot decode it and
    /// stops: with a majority of them the group stops too, at each start again. A new command gets the level that is new
    /// with it.
    pub fn level(&self) -> u32 {
        match self {
            Command::Tick
            | Command::Append(_)
            | Command::Receipts(_)
            | Command::ClearDirty { .. }
            | Command::ClearReceiptDirty { .. }
            | Command::EvictDedup { .. }
            | Command::Register(_)
            | Command::Login(_)
            | Command::RotateToken(_)
            | Command::Logout { .. }
            | Command::RevokeDevice { .. }
            | Command::RenameDevice { .. }
            | Command::SetPassword { .. }
            | Command::OpenSession(_)
            | Command::CloseSession { .. }
            | Command::Notify(_)
            | Command::Marks(_)
            | Command::PeerMarks(_)
            | Command::ClearReceiptDue { .. }
            | Command::Fence { .. }
            | Command::StepJob { .. }
            | Command::SetSlots(_)
            | Command::SetSettings(_)
            | Command::Digest
            | Command::WithdrawSession { .. }
            | Command::SetPrivacy { .. }
            | Command::SetContact { .. }
            | Command::SetConv { .. }
            | Command::SetProfile { .. }
            | Command::SetBlock { .. }
            | Command::SetBlocked { .. }
            | Command::BlockSettled { .. } => LEVEL_OF_OLD,
            Command::PlaceDevice { .. } | Command::SetPullRule(_) => limits::PULL_LEVEL,
            Command::IssueCode { .. } | Command::UseCode { .. } => limits::CODE_LEVEL,
            Command::ChangePrivacy { .. } => limits::HIDE_READ_LEVEL,
            Command::Control(control) => control.level(),
        }
    }

    /// Asked before it is proposed and again when it is applied, which has the last word.
    pub fn check_level(&self, level: u32) -> Result<(), Rejection> {
        let needed = self.level();
        if needed <= level {
            return Ok(());
        }
        Err(Rejection::Validation(format!(
            "this cluster is at feature level {level}, this needs level {needed}: its operator raises it with `flotilla cluster feature-level`"
        )))
    }
}

/// What was there before commands had levels.
const LEVEL_OF_OLD: u32 = 1;

impl Control {
    fn level(&self) -> u32 {
        match self {
            Control::Init { .. }
            | Control::RegisterNode { .. }
            | Control::LapseNode { .. }
            | Control::AllocateReplica { .. }
            | Control::ForgetReplica { .. }
            | Control::FenceDone { .. }
            // Of no level, for it makes one: it is proposed once every node has said that it knows it.
            | Control::RaiseLevel { .. } => LEVEL_OF_OLD,
            Control::SetClientLimits { .. } => limits::CLIENT_LIMITS_LEVEL,
        }
    }
}
