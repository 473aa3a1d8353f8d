//! What keeps machines from hearing each other: links that are cut, packets that are lost or late, connections that end.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use flotilla_proto::fate::{self, Fate};
use madsim::net::NetSim;

use super::{Cluster, Hold};

impl Cluster {
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
