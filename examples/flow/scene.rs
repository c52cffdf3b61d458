//! What a scene has at hand: clients with names of their own, whose events are recorded together, and
//! workers that handle a message when they are told to.

use std::{
    collections::BTreeSet,
    env,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use mq_core::{
    Attempt, Broker, MessageBuilder, Outcome, Received, Worker,
    dynamic::AnyBroker,
    flow::{FlowKind, FlowSink},
};
use mq_examples::{Args, Background, Clients, Result, within};
use mq_testkit::flow::FlowRecorder;
use tokio::sync::Semaphore;

/// One diagram.
pub(crate) struct Scene<'a> {
    args: &'a Args,
    recorder: Arc<FlowRecorder>,
    clients: Clients<'a>,
    open: Mutex<Vec<AnyBroker>>,
    /// The tokens that came with the messages.
    tokens: Tokens,
}

type Tokens = Arc<Mutex<BTreeSet<String>>>;

/// A worker that handles one message each time it is let.
pub(crate) struct Hand {
    running: Background,
    gate: Arc<Semaphore>,
}

impl<'a> Scene<'a> {
    pub(crate) fn new(args: &'a Args) -> Self {
        let recorder = Arc::new(FlowRecorder::new());
        Self {
            args,
            clients: Clients::new(args, Arc::clone(&recorder) as Arc<dyn FlowSink>),
            recorder,
            open: Mutex::default(),
            tokens: Tokens::default(),
        }
    }

    /// A name of this run, which the diagram shows without what makes it so.
    pub(crate) fn name(&self, what: &str) -> String {
        self.args.name(what)
    }

    /// A client with a name, as another process would have it.
    pub(crate) async fn client(&self, name: &str) -> Result<AnyBroker> {
        let client = self.clients.connect(name, true).await?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.push(client.clone());
        Ok(client)
    }

    /// Puts the token and one key into a message.
    pub(crate) fn stamp<T>(&self) -> impl Fn(&T, MessageBuilder) -> MessageBuilder + use<T> {
        let token = self.args.token().to_owned();
        move |_, message| message.key("ada").correlation_id(token.as_str())
    }

    /// Starts a worker that takes one message at a time, and handles it when it is let.
    pub(crate) fn start(&self, worker: Worker<AnyBroker>, decide: fn(u32) -> Outcome) -> Hand {
        let gate = Arc::new(Semaphore::new(0));
        let (let_in, tokens) = (Arc::clone(&gate), Arc::clone(&self.tokens));
        let handler = move |received: Received, Attempt(attempt): Attempt| {
            let (let_in, tokens) = (Arc::clone(&let_in), Arc::clone(&tokens));
            async move {
                note(&tokens, &received);
                if let Ok(permit) = let_in.acquire().await {
                    permit.forget();
                }
                decide(attempt)
            }
        };
        let running = Background::start(worker.prefetch(1).run(handler));
        Hand { running, gate }
    }

    /// Takes note of the token of a message.
    pub(crate) fn note(&self, received: &Received) {
        note(&self.tokens, received);
    }

    /// Waits until so many events of a kind came.
    pub(crate) async fn reached(&self, kind: FlowKind, count: usize) -> Result<()> {
        within(kind.as_str(), self.recorder.reached(kind, count)).await
    }

    /// Prints the diagram, and writes it where that is asked for.
    pub(crate) async fn draw(&self, what: &str) -> Result<()> {
        let token = self.args.token();
        let tokens = self
            .tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if tokens.iter().ne([token]) {
            return Err(format!("{what}: the messages came with the tokens {tokens:?}").into());
        }
        let diagram = self.recorder.drawing().hide(format!("-{token}")).diagram();
        println!(
            "{what}, with the token {}:\n{diagram}",
            tokens.into_iter().collect::<String>()
        );
        if let Some(folder) = env::var_os("MQ_FLOW_DIR").map(PathBuf::from) {
            std::fs::create_dir_all(&folder)?;
            let file = format!("{}-{what}.mmd", self.args.broker());
            std::fs::write(folder.join(file), diagram)?;
        }
        let open = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        for client in open {
            client.close().await?;
        }
        Ok(())
    }
}

impl Hand {
    /// Lets it handle so many messages.
    pub(crate) fn handle(&self, messages: usize) {
        self.gate.add_permits(messages);
    }

    /// Stops it.
    pub(crate) async fn stop(self) -> Result<()> {
        self.running.stop().await
    }
}

fn note(tokens: &Tokens, received: &Received) {
    let token = received.correlation_id().unwrap_or("none").to_owned();
    tokens
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(token);
}
