//! Named crash points. Nothing in production; in the simulator they tell a hook which line was just passed.
//!
//! The names are part of the simulator's scenarios: see each call. A hook must not block; it may schedule the power
//! loss of the node that runs.

#[cfg(not(madsim))]
#[inline(always)]
pub fn point(_name: &'static str) {}

#[cfg(madsim)]
pub use simulated::{clear, hook, passes, point};

#[cfg(madsim)]
mod simulated {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::rc::Rc;

    type Hook = Rc<dyn Fn(&'static str)>;

    thread_local! {
        // The simulator runs all nodes on one thread.
        static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
        static PASSES: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
    }

    /// Tells the hook, if any. The hook runs inside the task of the node that passed the point.
    pub fn point(name: &'static str) {
        PASSES.with(|passes| *passes.borrow_mut().entry(name).or_default() += 1);
        let hook = HOOK.with(|cell| cell.borrow().clone());
        if let Some(hook) = hook {
            hook(name);
        }
    }

    /// How often each point was passed so far, by all nodes together.
    pub fn passes() -> BTreeMap<&'static str, u64> {
        PASSES.with(|passes| passes.borrow().clone())
    }

    /// Sets what every point calls from now on.
    pub fn hook(hook: impl Fn(&'static str) + 'static) {
        HOOK.with(|cell| *cell.borrow_mut() = Some(Rc::new(hook)));
    }

    pub fn clear() {
        HOOK.with(|cell| *cell.borrow_mut() = None);
    }
}
