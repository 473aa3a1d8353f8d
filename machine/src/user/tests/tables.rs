//! Every table gives back what was put in.

use flotilla_proto::ids::*;
use proptest::prelude::*;

use super::kit;
use crate::command::{Audience, ConvSettings};
use crate::table::assert_round_trip;
use crate::user::account::{UserRow, UserTable};
use crate::user::block::{BlockRow, BlockTable};
use crate::user::contact::{ContactRow, ContactTable};
use crate::user::conv_settings::ConvSettingsTable;
use crate::user::cursor::CursorTable;
use crate::user::device::{Barred, DeviceRow, DeviceTable, GoneTable};
use crate::user::inbox::{InboxTable, RevTable, Row};
use crate::user::job::{Job, JobTable};
use crate::user::marks::{Due, DueTable};
use crate::user::presence::{PresenceRow, PresenceTable};
use crate::user::privacy::{PrivacyRow, PrivacyTable};
use crate::user::profile::{ProfileRow, ProfileTable};
use crate::user::session::{AtNode, SessionNodeTable, SessionRow, SessionTable};
use crate::user::token::{Family, TokenTable};

fn user() -> impl Strategy<Value = UserId> {
    "[a-z0-9_.-]{1,64}".prop_map(|name| kit::user(&name))
}

proptest! {
    #[test]
    fn rows_round_trip(user in user(), peer in user(), n: u64, id: u128, byte: u8, node: u16, text in ".{0,40}") {
        let (device, key) = (DeviceId(id), (user.clone(), DeviceId(id)));
        let conv = ConvId::direct(&user, &peer);
        let account = UserRow { rev: Rev(n), passwords: vec![Cid(id)], ..UserRow::new(&text, TsMs(n), Some(Cid(id))) };
        assert_round_trip::<UserTable>(&user, &account);
        let barred = vec![Barred { instance: Instance(id), replaced: n % 2 == 0, attempt: Some(n) }];
        let row_text = text.clone();
        let row = DeviceRow { install: kit::hash(byte), name: text, created: TsMs(n), number: SessionNo(n), barred };
        assert_round_trip::<DeviceTable>(&key, &row);
        assert_round_trip::<GoneTable>(&key, &TsMs(n));
        assert_round_trip::<TokenTable>(&key, &Family::new(kit::hash(byte)));
        let (node, incarnation) = (NodeId(node), Incarnation(n));
        let session = SessionRow {
            node, incarnation, number: SessionNo(n), instance: Instance(id), attempt: n, since: SessionNo(n),
        };
        assert_round_trip::<SessionTable>(&key, &session);
        assert_round_trip::<SessionNodeTable>(&AtNode { node, incarnation, user: user.clone(), device }, &());
        let row = Row { head: Seq(n), part: kit::part(n, &[kit::stay(3, Some(n))]), ..Row::default() };
        assert_round_trip::<InboxTable>(&(user.clone(), conv.clone()), &row);
        assert_round_trip::<RevTable>(&(user.clone(), Rev(n)), &conv);
        assert_round_trip::<CursorTable>(&(user.clone(), device, conv.clone()), &Seq(n));
        assert_round_trip::<DueTable>(&(user.clone(), conv.clone()), &Due { delivered: Seq(n), read: Seq(n) });
        let presence = PresenceRow { last_seen: Some(TsMs(n)), shown_to: Audience::Contacts };
        let settings = ConvSettings { pinned: Some(TsMs(n)), unread: n % 2 == 0, ..ConvSettings::default() };
        assert_round_trip::<ConvSettingsTable>(&(user.clone(), conv.clone()), &settings);
        let block = BlockRow { on: true, since: TsMs(n), request: Cid(id), settled: n % 2 == 0 };
        assert_round_trip::<BlockTable>(&(user.clone(), peer.clone()), &block);
        assert_round_trip::<PresenceTable>(&user, &presence);
        assert_round_trip::<PrivacyTable>(&user, &PrivacyRow { hide_read: n % 2 == 0 });
        assert_round_trip::<ContactTable>(&(user.clone(), peer), &ContactRow { name: row_text.clone(), added: TsMs(n) });
        let profile = ProfileRow { name: row_text, contacts: n as u32, ..ProfileRow::default() };
        assert_round_trip::<ProfileTable>(&user, &profile);
        assert_round_trip::<JobTable>(&Job::Sweep(node), &());
        assert_round_trip::<JobTable>(&Job::RemoveCursors(user, device), &());
    }
}
