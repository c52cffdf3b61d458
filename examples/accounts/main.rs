//! One actor for each of 10,000 accounts, fed by a worker: a payment is acknowledged only when its
//! account's actor has booked it. Actors and worker are children of one supervisor. An account
//! panics once; its actor begins anew from the books, and nothing is lost.
//!
//! ```text
//! cargo run --example accounts
//! cargo run --example accounts -- --broker amqp://guest:guest@127.0.0.1:5672/%2f
//! cargo run --example accounts -- --broker kafka://127.0.0.1:9092
//! ```

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::future::join_all;
use mq_core::{
    BoxError, Broker, Destination, Json, Message, Publisher, Received, State, Subscription, Worker,
};
use mq_examples::{Args, Result, within};
use mq_reliability::supervise::{Actor, ActorError, Actors, Child, Supervisor};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

const ACCOUNTS: u32 = 10_000;
/// What is paid to each account, one payment after the other.
const PAYMENTS: [u64; 2] = [100, 5];
/// The account whose actor panics when its second payment comes.
const UNLUCKY: u32 = 77;

#[derive(Serialize, Deserialize)]
struct Payment {
    account: u32,
    cents: u64,
}

/// The books that last: a database, in a real program. An entry is made once for each message.
#[derive(Clone, Default)]
struct Books(Arc<Mutex<HashMap<u32, Vec<Entry>>>>);

/// The id of a payment, and its cents.
type Entry = (String, u64);

impl Books {
    fn entries(&self, account: u32) -> Vec<Entry> {
        let books = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        books.get(&account).cloned().unwrap_or_default()
    }

    fn book(&self, account: u32, entry: Entry) {
        let mut books = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        books.entry(account).or_default().push(entry);
    }
}

/// The actor: what it knows is read from the books when it starts, and kept up to date after that.
struct Account {
    number: u32,
    entries: Vec<Entry>,
    books: Books,
    bug: Arc<AtomicBool>,
}

impl Actor for Account {
    type Message = Entry;
    type Reply = u64;

    /// Books a payment, unless it has been booked, and answers with the balance.
    async fn handle(&mut self, (id, cents): Entry) -> Result<u64, BoxError> {
        if !self.entries.iter().any(|(booked, _)| *booked == id) {
            self.entries.push((id.clone(), cents)); // not in the books yet:
            if self.number == UNLUCKY
                && self.entries.len() == 2
                && !self.bug.swap(true, Ordering::Relaxed)
            {
                panic!("account {UNLUCKY} has a bug"); // lost with the actor, and booked later
            }
            self.books.book(self.number, (id, cents));
        }
        Ok(self.entries.iter().map(|(_, cents)| cents).sum())
    }
}

/// What the worker's handler has at hand.
#[derive(Clone)]
struct Desk {
    accounts: Actors<u32, Account>,
    tell: mpsc::Sender<Told>,
}

enum Told {
    /// An account has all that was paid to it; the token that came with the last payment.
    Paid(u32, Option<String>),
    Failed(ActorError),
}

/// An error here is a failed attempt: the payment comes again.
async fn pay(
    Json(payment): Json<Payment>,
    received: Received,
    State(desk): State<Desk>,
) -> Result<(), BoxError> {
    let message = (received.id().to_string(), payment.cents);
    let balance = match desk.accounts.call(&payment.account, message).await {
        Ok(balance) => balance,
        Err(error) => {
            desk.tell.send(Told::Failed(error.clone())).await?;
            return Err(error.into());
        }
    };
    if balance == PAYMENTS.iter().sum::<u64>() {
        let token = received.headers().text("token").map(str::to_owned);
        desk.tell.send(Told::Paid(payment.account, token)).await?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse()?;
    let broker = args.connect().await?;
    let payments = Destination::queue(args.name("payments"));
    broker.declare(&payments).await?;

    let (books, bug) = (Books::default(), Arc::new(AtomicBool::new(false)));
    let accounts = Actors::builder({
        let books = books.clone();
        move |number| {
            let (books, bug) = (books.clone(), Arc::clone(&bug));
            async move {
                Ok(Account {
                    number,
                    entries: books.entries(number),
                    books,
                    bug,
                })
            }
        }
    })
    .build();
    let (tell, mut told) = mpsc::channel(64);
    let desk = Desk {
        accounts: accounts.clone(),
        tell,
    };

    // The worker needs the actors, so it is the second one: with the actors it is started again,
    // and it is stopped before them.
    let supervisor = Supervisor::rest_for_one("bank")
        .child(Child::new("accounts", {
            let accounts = accounts.clone();
            move |stop| accounts.run_until(stop)
        }))
        .child(Child::new("payments", {
            let (broker, queue) = (broker.clone(), Arc::clone(payments.name()));
            move |stop| {
                Worker::new(&broker, Subscription::queue(Arc::clone(&queue)))
                    .concurrency(64)
                    .prefetch(512)
                    .ordered_by_key()
                    .state(desk.clone())
                    .run(pay)
                    .with_graceful_shutdown(stop)
            }
        }))
        .on_event(|event| println!("{event}"));
    let (stop, stopped) = oneshot::channel::<()>();
    let bank = tokio::spawn(supervisor.run_until(async { drop(stopped.await) }));

    for cents in PAYMENTS {
        publish(&broker, &payments, cents, args.token()).await?;
        println!(
            "{ACCOUNTS} payments of {cents} cents are stored in the queue {}",
            payments.name()
        );
    }
    let (mut paid, mut failures) = (HashMap::new(), Vec::new());
    while paid.len() < ACCOUNTS as usize {
        match within("the next account", told.recv()).await? {
            Some(Told::Paid(account, token)) => drop(paid.insert(account, token)),
            Some(Told::Failed(error)) => failures.push(error),
            None => return Err("the bank is closed".into()),
        }
    }
    for error in failures {
        println!("not acknowledged, and delivered again: {error}");
    }
    println!("{} actors hold {} accounts", accounts.count(), paid.len());
    if paid
        .values()
        .any(|token| token.as_deref() != Some(args.token()))
    {
        return Err("a payment has come without the token".into());
    }
    let right = PAYMENTS.iter().sum::<u64>();
    let balance = |account| {
        books
            .entries(account)
            .iter()
            .map(|(_, cents)| cents)
            .sum::<u64>()
    };
    let wrong = (0..ACCOUNTS)
        .filter(|account| balance(*account) != right)
        .count();
    let token = paid.remove(&UNLUCKY).flatten().unwrap_or_default();
    println!(
        "account {UNLUCKY} has {} cents, with the token {token}; {wrong} accounts are wrong",
        balance(UNLUCKY)
    );

    let _ = stop.send(());
    bank.await??;
    println!("{} actors are left", accounts.count());
    broker.close().await?;
    Ok(())
}

/// Publishes a payment to each account, and waits until all are stored.
async fn publish(
    broker: &impl Broker,
    payments: &Destination,
    cents: u64,
    token: &str,
) -> Result<()> {
    let publisher = broker.publisher();
    let mut pending = Vec::new();
    for account in 0..ACCOUNTS {
        let message = Message::json(&Payment { account, cents })?
            .key(format!("account {account}"))
            .header("token", token.to_owned());
        pending.push(publisher.enqueue(payments, message).await?);
    }
    for stored in join_all(pending).await {
        stored?;
    }
    Ok(())
}
