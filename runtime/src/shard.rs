//! Shards: one pinned thread each, with its engine, tasks and timers, and the loop that drives them.

use std::any::{Any, TypeId};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use crate::channel::{OneshotReceiver, oneshot};
use crate::engine::{Backend, Engine, EngineKind, Next, ProbeError};
use crate::executor::{Executor, Remote};
use crate::map::HashMap;
use crate::net::VectoredSend;
use crate::rng::{SeededRng, entropy};
use crate::seldom::Seldom;
use crate::sim;
use crate::time::now;
use crate::wheel::Wheel;

/// How a set of shards is started.
#[derive(Clone, Debug)]
pub struct Config {
    /// Prefix of the threads' names.
    pub name: String,
    /// The engine under the facade.
    pub engine: EngineKind,
    /// One shard per entry, pinned to that core; the order gives the shards' numbers.
    pub cores: Vec<usize>,
}

impl Default for Config {
    fn default() -> Self {
        Self { name: "shard".into(), engine: EngineKind::Uring, cores: vec![available_cores()[0]] }
    }
}

/// Why shards could not be started: one line that names what is missing and how to mend it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The list of cores was empty or named a core this process may not use.
    #[error("core {core} is not among the cores this process may use ({available:?}); name others")]
    NoSuchCore {
        /// The core that was asked for.
        core: usize,
        /// The cores of the process's affinity mask.
        available: Vec<usize>,
    },
    /// No core was named.
    #[error("no core was named for {0}; name at least one")]
    NoCores(String),
    /// The kernel lacks something the engine needs.
    #[error(transparent)]
    Engine(#[from] ProbeError),
    /// A thread could not be started.
    #[error("cannot start a thread for a shard: {0}; raise ulimit -u")]
    Thread(io::Error),
}

/// Everything a shard owns. Lives on its thread, reached through [`with_core`].
pub(crate) struct Core {
    pub(crate) index: usize,
    pub(crate) count: usize,
    pub(crate) executor: Rc<Executor>,
    pub(crate) timers: RefCell<Wheel>,
    /// When this turn of the loop began.
    pub(crate) turn_ns: Cell<u64>,
    pub(crate) engine: Engine,
    /// Memory of sends that are over.
    #[expect(
        clippy::vec_box,
        reason = "the box goes into the next send as it is: the kernel has its address"
    )]
    pub(crate) sends: RefCell<Vec<Box<VectoredSend>>>,
    /// Of large sends that are over.
    pub(crate) large_buffers: RefCell<Vec<Vec<u8>>>,
    pub(crate) rng: RefCell<SeededRng>,
    /// There were no descriptors for connections.
    pub(crate) exhausted: Seldom,
    locals: RefCell<HashMap<TypeId, Rc<dyn Any>>>,
}

impl Core {
    pub(crate) fn new(
        index: usize,
        count: usize,
        engine: Engine,
        remote: Arc<Remote>,
        seed: u64,
    ) -> Rc<Self> {
        let now_ns = now().as_nanos();
        Rc::new(Self {
            index,
            count,
            engine,
            sends: RefCell::default(),
            large_buffers: RefCell::default(),
            executor: Rc::new(Executor::new(remote)),
            timers: RefCell::new(Wheel::new(now_ns)),
            turn_ns: Cell::new(now_ns),
            rng: RefCell::new(SeededRng::new(seed)),
            exhausted: Seldom::default(),
            locals: RefCell::default(),
        })
    }

    /// Drops the tasks and everything else that the shard owns.
    pub(crate) fn close(&self) {
        self.engine.close(|| {
            self.executor.close();
            drop(self.locals.take());
        });
    }
}

thread_local! {
    static CORE: RefCell<Option<Rc<Core>>> = const { RefCell::new(None) };
    static CORE_POINTER: Cell<*const Core> = const { Cell::new(std::ptr::null()) };
}

/// Runs `f` with this thread's shard, or gives `None` on a thread that is none.
pub(crate) fn try_with_core<T>(f: impl FnOnce(&Core) -> T) -> Option<T> {
    let pointer = CORE_POINTER.try_with(Cell::get).ok()?;
    // SAFETY: the pointer is set from the Rc in CORE and cleared before that Rc goes (see `Entered`); the
    // reference does not outlive this call, and only the owning thread can see the thread-local.
    unsafe { pointer.as_ref() }.map(f)
}

/// Runs `f` with this thread's shard; panics on a thread that is none.
pub(crate) fn with_core<T>(f: impl FnOnce(&Core) -> T) -> T {
    try_with_core(f).expect("this call needs a shard: run it inside Shards::start")
}

/// Makes a core reachable through the thread-locals, and the one before it again when dropped.
pub(crate) struct Entered {
    outer: Option<Rc<Core>>,
}

impl Entered {
    /// # Safety
    ///
    /// The values of this type are dropped in the reverse order of their making, and none of them by what runs inside of
    /// `with_core`, whose reference may be to the core that goes with it.
    pub(crate) unsafe fn new(core: Rc<Core>) -> Self {
        CORE_POINTER.set(Rc::as_ptr(&core));
        Self { outer: CORE.replace(Some(core)) }
    }

    /// No core at all: the thread is a helper thread's stand-in.
    pub(crate) fn none() -> Self {
        CORE_POINTER.set(std::ptr::null());
        Self { outer: CORE.take() }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let outer = self.outer.take();
        CORE_POINTER.set(outer.as_ref().map_or(std::ptr::null(), Rc::as_ptr));
        // The core that is left must not be dropped while the thread-local is borrowed.
        let left = CORE.replace(outer);
        drop(left);
    }
}

/// Closes the core of a thread when the thread's shard ends, be it by a panic.
struct Closing(Rc<Core>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The number of this shard, from 0.
pub fn shard() -> usize {
    with_core(|core| core.index)
}

/// How many shards were started together with this one.
pub fn shard_count() -> usize {
    with_core(|core| core.count)
}

/// The shard's own value of type `T`, made by `init` at the first call.
pub fn shard_local<T: 'static>(init: impl FnOnce() -> T) -> Rc<T> {
    let key = TypeId::of::<T>();
    let found = with_core(|core| core.locals.borrow().get(&key).cloned());
    let value = found.unwrap_or_else(|| {
        let made: Rc<dyn Any> = Rc::new(init());
        with_core(|core| core.locals.borrow_mut().insert(key, made.clone()));
        made
    });
    value.downcast::<T>().unwrap_or_else(|_| unreachable!("the key is the type"))
}

/// Threads that run shards; `T` is what each shard's main future gives.
#[derive(Debug)]
pub struct Shards<T> {
    running: Vec<Running<T>>,
}

#[derive(Debug)]
enum Running<T> {
    /// A thread, and what tells of its end without blocking.
    Thread(thread::JoinHandle<Option<T>>, OneshotReceiver<()>),
    Simulated(OneshotReceiver<T>),
}

impl<T: Send + 'static> Shards<T> {
    /// Starts one thread per core of `config` and runs `main()` on each. A shard ends when its main future
    /// does; its other tasks are dropped then.
    ///
    /// In the simulator the shards belong to the node whose task calls this, and nothing is pinned.
    pub fn start<F, Fut>(config: Config, main: F) -> Result<Self, StartError>
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = T> + 'static,
    {
        if config.cores.is_empty() {
            return Err(StartError::NoCores(config.name));
        }
        if let Some(here) = sim::here() {
            let running = here.start_shards(config.cores.len(), main);
            return Ok(Self { running: running.into_iter().map(Running::Simulated).collect() });
        }
        let available = available_cores();
        if let Some(core) = config.cores.iter().find(|core| !available.contains(core)) {
            return Err(StartError::NoSuchCore { core: *core, available });
        }
        config.engine.check()?;
        let main = Arc::new(main);
        let count = config.cores.len();
        let (report, reports) = crossbeam::channel::bounded(count);
        let (go, gate) = crossbeam::channel::bounded(count);
        let mut running = Vec::with_capacity(count);
        for (index, core) in config.cores.iter().copied().enumerate() {
            let (main, report, gate, engine) = (main.clone(), report.clone(), gate.clone(), config.engine);
            let (end, ended) = oneshot();
            let thread = thread::Builder::new()
                .name(format!("{}-{index}", config.name))
                .spawn(move || {
                    let _end = end; // dropped, it tells of the end
                    pin_thread(core);
                    let (core, outcome) = match build_core(index, count, engine) {
                        Ok(core) => (Some(core), Ok(())),
                        Err(error) => (None, Err(error)),
                    };
                    report.send(outcome).ok()?;
                    // The gate opens when every shard is built, and is dropped when one could not be.
                    gate.recv().ok()?;
                    core.map(|core| run_shard(core, &*main))
                })
                .map_err(StartError::Thread)?;
            running.push(Running::Thread(thread, ended));
        }
        drop(report);
        for outcome in reports.iter().take(count) {
            outcome?;
        }
        for _ in 0..count {
            go.send(()).expect("every shard holds the gate's other end");
        }
        Ok(Self { running })
    }

    /// Waits for every shard; an `Err` is the panic of one. Blocks the thread: a shard awaits
    /// [`Shards::ended`] instead. Panics in the simulator.
    pub fn join(self) -> Vec<thread::Result<T>> {
        assert!(
            !sim::is_running(),
            "the simulator has one thread, which must not block: await Shards::ended"
        );
        futures_lite::future::block_on(self.ended())
    }

    /// Waits for every shard without blocking; an `Err` is the panic of one.
    pub async fn ended(self) -> Vec<thread::Result<T>> {
        let mut results = Vec::with_capacity(self.running.len());
        for running in self.running {
            results.push(match running {
                Running::Thread(thread, ended) => {
                    let _nothing_sent = ended.await;
                    thread.join().map(|value| value.expect("start returned, so every shard was built"))
                }
                Running::Simulated(ended) => ended.await.ok_or_else(|| {
                    let why: Box<dyn Any + Send> = Box::new("the shard was ended before its main future");
                    why
                }),
            });
        }
        results
    }
}

/// Starts the shards of `config`, runs `main` on each and gives what shard 0 returned. For tools and tests.
pub fn run<F, Fut, T>(config: Config, main: F) -> Result<T, StartError>
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let mut results = Shards::start(config, main)?.join();
    match results.swap_remove(0) {
        Ok(value) => Ok(value),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn build_core(index: usize, count: usize, kind: EngineKind) -> Result<Rc<Core>, ProbeError> {
    let remote = Remote::new().map_err(ProbeError::from_setup)?;
    let bell = remote.bell().expect("a real shard has its bell");
    let engine = Engine::new(Backend::new(kind, bell, count)?);
    Ok(Core::new(index, count, engine, remote, entropy()))
}

fn run_shard<F, Fut, T>(core: Rc<Core>, main: &F) -> T
where
    F: Fn() -> Fut,
    Fut: Future<Output = T> + 'static,
    T: 'static,
{
    // SAFETY: it is the first of its thread, and goes with the thread's last frame.
    let _entered = unsafe { Entered::new(core.clone()) };
    let core = &Closing(core).0;
    let handle = core.executor.spawn(main());
    let mut slept = false;
    core.engine.drive(|| {
        if std::mem::take(&mut slept) {
            core.executor.remote.awake();
        }
        let mut more = core.executor.run_ready();
        if handle.is_finished() {
            return Next::End;
        }
        let wake_at = {
            let mut timers = core.timers.borrow_mut();
            let now = now().as_nanos();
            core.turn_ns.set(now);
            timers.start(now);
            match timers.next_wake() {
                Some(at) => {
                    if at <= now {
                        timers.expire(now, |waker| {
                            more = true;
                            waker.wake();
                        });
                    }
                    timers.next_wake().map(|at| Duration::from_nanos(at.saturating_sub(now)))
                }
                None => None,
            }
        };
        if more || !core.executor.remote.prepare_sleep() {
            return Next::Turn;
        }
        slept = true;
        Next::Wait(wake_at)
    });
    futures_lite::future::block_on(handle)
}

/// The cores this process may run on, in ascending order, as they were when first asked for.
pub fn available_cores() -> Vec<usize> {
    if sim::is_running() {
        return (0..sim::CORES).collect();
    }
    static CORES: OnceLock<Vec<usize>> = OnceLock::new();
    CORES
        .get_or_init(|| {
            let Ok(set) = affinity() else { return vec![0] };
            let limit = libc::CPU_SETSIZE as usize;
            // SAFETY: every index is below CPU_SETSIZE.
            (0..limit).filter(|core| unsafe { libc::CPU_ISSET(*core, &set) }).collect()
        })
        .clone()
}

/// The cores that the calling thread may run on.
fn affinity() -> io::Result<libc::cpu_set_t> {
    // SAFETY: an all-zero cpu_set_t is a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the call writes at most the given size into the local set.
    match unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) } {
        0 => Ok(set),
        _ => Err(io::Error::last_os_error()),
    }
}

fn pin_thread(core: usize) {
    set_affinity(&cpu_set(&[core]));
}

/// Lets the calling thread run on every core of the process again: threads inherit the pin of their parent.
pub(crate) fn unpin_thread() {
    set_affinity(&cpu_set(&available_cores()));
}

/// Runs `work`, which starts threads, on every core of the process, and pins the calling thread again.
pub(crate) fn unpinned<T>(work: impl FnOnce() -> T) -> T {
    let pinned = affinity();
    unpin_thread();
    let result = work();
    if let Ok(set) = pinned {
        set_affinity(&set);
    }
    result
}

fn set_affinity(set: &libc::cpu_set_t) {
    // SAFETY: the call reads the given size from the set.
    let result = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), set) };
    if result != 0 {
        log::warn!("cannot change the cores of a thread: {}", io::Error::last_os_error());
    }
}

fn cpu_set(cores: &[usize]) -> libc::cpu_set_t {
    // SAFETY: an all-zero cpu_set_t is a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for core in cores {
        // SAFETY: CPU_SET checks the index against the set's size.
        unsafe { libc::CPU_SET(*core, &mut set) };
    }
    set
}
