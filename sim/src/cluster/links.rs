//! What keeps machines from hearing each other: links that are cut, packets that are lost or late, connections that end.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use flotilla_proto::fate::{self, Door, Fate};
use madsim::net::NetSim;

use super::{Cluster, Hold};

thread_local! {
    // The simulator runs everything on one thread. Who is kept out (nobody in particular: everybody), and from where.
    static CLOSED: RefCell<Vec<(Option<String>, IpAddr, Door)>> = const { RefCell::new(Vec::new()) };
}

/// Once per run.
pub fn keep_doors() {
    fate::doors(|to| {
        CLOSED.with(|closed| {
            let closed = closed.borrow();
            let mut doors = closed.iter().filter(|(_, ip, _)| to.ip() == *ip);
            let shut = doors.find(|(from, _, _)| from.as_ref().is_none_or(|from| *from == super::place()));
            shut.map_or(Door::Open, |(_, _, door)| *door)
        })
    });
}

impl Cluster {
    /// Whoever connects to the node meets this, and whoever was connected is not any more.
    pub fn close_door(&self, node: usize, door: Door) {
        self.say(format!("closes the door of node{}: {door:?}", self.seats[node].number));
        let own = IpAddr::V4(self.seats[node].ip);
        CLOSED.with(|closed| closed.borrow_mut().push((None, own, door)));
        fate::change(|_, peer, _| (peer.ip() == own && is_port(peer.port())).then_some(Fate::Reset));
    }

    /// One node cannot connect to another, which reaches it.
    pub fn close_door_to(&self, node: usize, from: usize, door: Door) {
        let (from, own) = (&self.seats[from], IpAddr::V4(self.seats[node].ip));
        self.say(format!("closes the door of node{} to node{}", self.seats[node].number, from.number));
        CLOSED.with(|closed| closed.borrow_mut().push((Some(format!("node{}", from.number)), own, door)));
        let there = IpAddr::V4(from.ip);
        fate::change(|local, peer, _| {
            (local.ip() == there && peer.ip() == own && is_port(peer.port())).then_some(Fate::Reset)
        });
    }

    /// Once for each time that a door was closed. Those who were let in and hear nothing learn that nobody is there.
    pub fn open_door(&self, node: usize, door: Door) {
        let own = IpAddr::V4(self.seats[node].ip);
        self.say(format!("opens the door of node{}", self.seats[node].number));
        CLOSED.with(|closed| {
            let mut closed = closed.borrow_mut();
            if let Some(at) = closed.iter().position(|(_, ip, shut)| (*ip, *shut) == (own, door)) {
                closed.remove(at);
            }
        });
        fate::change(|_, peer, now| (peer.ip() == own && now == Fate::Dead).then_some(Fate::Reset));
    }

    /// What becomes of the connections of a node, or of all clients.
    pub fn connections(&self, of: Option<usize>, fate: Fate) {
        let ip = of.map(|node| IpAddr::V4(self.seats[node].ip));
        let clients = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 0));
        let is_client = move |addr: SocketAddr| match (addr.ip(), clients) {
            (IpAddr::V4(one), IpAddr::V4(net)) => one.octets()[..3] == net.octets()[..3],
            _ => false,
        };
        fate::change(|local, peer, _| {
            let meant = match ip {
                Some(ip) => local.ip() == ip,
                None => is_client(peer),
            };
            meant.then_some(fate)
        });
    }

    /// What becomes of a node's connections with other nodes; its clients notice nothing.
    pub fn peer_connections(&self, node: usize, fate: Fate) {
        let ips: Vec<IpAddr> = self.seats.iter().map(|seat| IpAddr::V4(seat.ip)).collect();
        let own = ips[node];
        fate::change(|local, peer, _| {
            let is_between = ips.contains(&local.ip()) && ips.contains(&peer.ip());
            (is_between && (local.ip() == own || peer.ip() == own)).then_some(fate)
        });
    }

    /// Of those that the node has dialled, as [`Cluster::peer_connections`]. The others reach it all the while, and what it
    /// tells them meanwhile is dropped.
    pub fn dialled_connections(&self, node: usize, fate: Fate) {
        let ips: Vec<IpAddr> = self.seats.iter().map(|seat| IpAddr::V4(seat.ip)).collect();
        let own = ips[node];
        let dialled = move |from: SocketAddr, to: SocketAddr| {
            from.ip() == own && ips.contains(&to.ip()) && to.port() == super::PEER_PORT
        };
        fate::change(|local, peer, _| (dialled(local, peer) || dialled(peer, local)).then_some(fate));
    }

    /// The node hears nothing of its clients any more, not even that they end, and they nothing of it.
    pub fn clients_unheard(&self, node: usize) {
        let own = IpAddr::V4(self.seats[node].ip);
        fate::change(|local, _, _| (local.ip() == own && local.port() == super::CLIENT_PORT).then_some(Fate::Dead));
    }

    /// At the client's end.
    pub fn connections_of_client(&self, ip: IpAddr, fate: Fate) {
        fate::change(|local, _, _| (local.ip() == ip).then_some(fate));
    }

    pub fn end_dead(&self, node: usize) {
        self.end_fate(node, Fate::Dead, Fate::Reset);
    }

    pub fn end_late(&self, node: usize) {
        self.end_fate(node, Fate::Late, Fate::Fine);
    }

    /// Only of connections that have the one: those made since then are as they are.
    fn end_fate(&self, node: usize, from: Fate, to: Fate) {
        let ip = IpAddr::V4(self.seats[node].ip);
        fate::change(|local, _, now| (local.ip() == ip && now == from).then_some(to));
    }

    pub fn delay(&self, by: Duration) {
        self.say(format!("makes packets take up to {by:?} longer"));
        let latency = self.latency.start..self.latency.end + by;
        NetSim::current().update_config(|config| config.send_latency = latency);
    }

    /// The node hears nobody (`inward`), nobody hears it (`outward`), or both.
    pub fn isolate(&self, node: usize, inward: bool, outward: bool) {
        let id = self.machines[node].id();
        self.say(format!("isolates node{} (inward {inward}, outward {outward})", self.seats[node].number));
        if inward && self.hold(Hold::Inward(node)) {
            NetSim::current().clog_node_in(id);
        }
        if outward && self.hold(Hold::Outward(node)) {
            NetSim::current().clog_node_out(id);
        }
    }

    /// The same directions as it was isolated in.
    pub fn rejoin(&self, node: usize, inward: bool, outward: bool) {
        let id = self.machines[node].id();
        self.say(format!("lets node{} back in", self.seats[node].number));
        if inward && self.release(Hold::Inward(node)) {
            NetSim::current().unclog_node_in(id);
        }
        if outward && self.release(Hold::Outward(node)) {
            NetSim::current().unclog_node_out(id);
        }
    }

    pub fn cut(&self, from: usize, to: usize) {
        self.say(format!("cuts node{} to node{}", self.seats[from].number, self.seats[to].number));
        if self.hold(Hold::Link(from, to)) {
            NetSim::current().clog_link(self.machines[from].id(), self.machines[to].id());
        }
    }

    pub fn mend(&self, from: usize, to: usize) {
        self.say(format!("mends node{} to node{}", self.seats[from].number, self.seats[to].number));
        if self.release(Hold::Link(from, to)) {
            NetSim::current().unclog_link(self.machines[from].id(), self.machines[to].id());
        }
    }

    pub fn loss(&self, part: f64) {
        self.say(format!("makes packets get lost: {part}"));
        NetSim::current().update_config(|config| config.packet_loss_rate = part);
    }
}

fn is_port(port: u16) -> bool {
    [super::CLIENT_PORT, super::PEER_PORT].contains(&port)
}
