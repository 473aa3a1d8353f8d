//! WebSocket sessions: pure state machines and the actor around them.
