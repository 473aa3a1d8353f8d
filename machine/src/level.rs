//! From which feature level on a shard's log may hold a command.

use flotilla_proto::entry::What;
use flotilla_proto::ids::ConvKind;
use flotilla_proto::limits;

use crate::command::{Command, Control};
use crate::reply::Rejection;
use crate::user::conv_settings;

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

    /// The level from which a shard may take it. A log of a lower one may hold some of them all the same, and refuses them by the
    /// rules of that level.
    pub fn level_wanted(&self) -> u32 {
        match self {
            Command::Append(append) if append.conv.kind() == ConvKind::Channel => limits::PULL_LEVEL,
            // A group may have more members from that level on.
            Command::Append(append) if matches!(append.what, What::Create { .. } | What::Add { .. }) => {
                limits::PULL_LEVEL
            }
            Command::SetConv { change, .. } if change.hide_read == Some(true) => conv_settings::LEVEL,
            _ => self.level(),
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

#[cfg(test)]
mod tests {
    use flotilla_proto::ids::{Cid, ConvId, DeviceId};

    use super::*;
    use crate::command::{Append, ConvChange};
    use crate::testing::arb::{message, named};

    #[test]
    fn what_the_rules_of_a_lower_level_refuse_says_which_level_it_wants() {
        let ann = named("ann");
        let wanted = |conv: ConvId, what: What| {
            let (sender, device, cid) = (ann.clone(), DeviceId(1), Cid(1));
            let append = Append { conv, sender, device, cid, age_ms: 0, after: None, checked: vec![], what };
            let command = Command::Append(append);
            assert_eq!(command.level(), LEVEL_OF_OLD, "a log of any level may hold it");
            command.level_wanted()
        };
        let (group, channel) = (ConvId::group(&ann, Cid(1)), ConvId::channel(&ann, Cid(1)));
        assert_eq!(wanted(channel, message("x")), limits::PULL_LEVEL);
        assert_eq!(wanted(group.clone(), What::Add { users: vec![named("bob")] }), limits::PULL_LEVEL);
        assert_eq!(wanted(group.clone(), message("x")), LEVEL_OF_OLD);
        let hide = |on| {
            let change = ConvChange { hide_read: Some(on), ..ConvChange::default() };
            Command::SetConv { user: ann.clone(), conv: group.clone(), change }.level_wanted()
        };
        assert_eq!((hide(true), hide(false)), (conv_settings::LEVEL, LEVEL_OF_OLD));
        let private = Command::ChangePrivacy { user: ann.clone(), presence: None, hide_read: Some(true) };
        assert_eq!(private.level_wanted(), limits::HIDE_READ_LEVEL);
    }
}
