//! Cuts what a user shard is to be told into commands of bounded size.
//!
//! Pure; knows nothing of who is asked or when. All pieces must be durable before the dirty row is cleared.

use flotilla_proto::limits;

use crate::command::Notify;

/// The same news in order, at most `NOTIFY_USERS_PER_COMMAND_MAX` (conversation, user) pairs a command.
pub fn split_notify(items: Vec<Notify>) -> Vec<Vec<Notify>> {
    const MAX: usize = limits::NOTIFY_USERS_PER_COMMAND_MAX;
    let mut commands = Vec::new();
    let mut command: Vec<Notify> = Vec::new();
    let mut room = MAX;
    for mut item in items {
        while !item.users.is_empty() {
            let rest = item.users.split_off(item.users.len().min(room));
            room -= item.users.len();
            let next = Notify { users: rest, ..item.clone() };
            command.push(item);
            item = next;
            if room == 0 {
                commands.push(std::mem::take(&mut command));
                room = MAX;
            }
        }
    }
    if !command.is_empty() {
        commands.push(command);
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::NotifyUser;
    use flotilla_proto::ids::*;

    fn notify(conv: u128, users: usize) -> Notify {
        let user =
            |n| NotifyUser { user: UserId::parse(&format!("u{n}")).expect("valid"), n_sent: Count(0), part: None };
        let creator = UserId::parse("a").expect("valid");
        Notify {
            conv: ConvId::group(&creator, Cid(conv)),
            head: Seq(1),
            n_head: Count(1),
            last_id: MsgId(1),
            last_ts: TsMs(1),
            users: (0..users).map(user).collect(),
        }
    }

    #[test]
    fn every_pair_is_named_once_and_no_command_is_too_long() {
        let items = vec![notify(1, 500), notify(2, 1), notify(3, 0), notify(4, 75), notify(5, 77)];
        let pairs = |items: &[Notify]| -> Vec<(ConvId, UserId)> {
            items.iter().flat_map(|i| i.users.iter().map(|u| (i.conv.clone(), u.user.clone()))).collect()
        };
        let commands = split_notify(items.clone());
        assert!(commands.iter().all(|c| (1..=limits::NOTIFY_USERS_PER_COMMAND_MAX).contains(&pairs(c).len())));
        assert_eq!(commands.iter().flat_map(|c| pairs(c)).collect::<Vec<_>>(), pairs(&items));
        assert!(split_notify(Vec::new()).is_empty());
    }
}
