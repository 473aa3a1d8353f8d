//! Both sides of the machine together.

mod message_path;
