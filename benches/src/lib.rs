//! The pure parts of a message's path, one step at a time: for benchmarks, and for a count of instructions that is stable
//! enough to be compared with a stored one.
//!
//! - [`codec`] frames and commands to bytes and back · [`applying`] proposals on a shard in memory · [`window`] what a
//!   connection may send (cargo feature `window`: it lives in the node)
//!
//! A piece is prepared once and then stepped: every step does the same amount of work on a state that has moved on.

pub mod applying;
pub mod codec;
#[cfg(feature = "window")]
pub mod window;

/// One part of the path.
pub trait Piece {
    fn step(&mut self);
}

/// How a piece is prepared.
pub type Prepare = fn() -> Box<dyn Piece>;

/// All of them by name, in the order in which a message meets them.
pub fn pieces() -> Vec<(&'static str, Prepare)> {
    vec![
        ("decode a send frame", codec::send_frame),
        ("encode and decode a command", codec::command),
        ("apply 16 sends", applying::sends),
        ("apply 16 repeated sends", applying::repeats),
        ("apply 16 heads and acks", applying::heads_and_acks),
        ("encode an entry frame", codec::entry_frame),
        #[cfg(feature = "window")]
        ("send and ack 16 entries", window::entries),
    ]
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_piece_can_be_stepped_again_and_again() {
        for (name, prepare) in super::pieces() {
            let mut piece = prepare();
            for _ in 0..20 {
                piece.step();
            }
            println!("{name}");
        }
    }
}
