"""A RabbitMQ program as others write it, with pika and nothing of ours.

Reads {"url": ..., "steps": [...]} from standard input, does the steps one after the other, and writes the list of
their results to standard output, both as JSON. Bytes are hexadecimal. Header values are tagged with their AMQP type,
since JSON would hide it.
"""

import datetime
import decimal
import json
import sys
import time

import pika
from pika.exceptions import ChannelClosedByBroker, NackError, UnroutableError

PATIENCE = 20  # seconds that a wait for a message may take


def untagged(value):
    """The Python value that pika encodes as the AMQP type of the tag."""
    if value is None:
        return None
    ((tag, inner),) = value.items()
    return {
        "text": str,
        "bytes": bytes.fromhex,
        "bool": bool,
        "int": int,
        "decimal": decimal.Decimal,
        "time": lambda s: datetime.datetime.fromtimestamp(s, datetime.timezone.utc),
        "array": lambda items: [untagged(item) for item in items],
        "table": lambda pairs: {name: untagged(item) for name, item in pairs.items()},
    }[tag](inner)


def tagged(value):
    """What pika decoded, with its type."""
    if value is None:
        return None
    for kind, tag, inner in (
        (bool, "bool", lambda v: v),  # before int, which it is in Python
        (int, "int", lambda v: v),
        (str, "text", lambda v: v),
        (bytes, "bytes", bytes.hex),
        (list, "array", lambda v: [tagged(item) for item in v]),
        (dict, "table", lambda v: {name: tagged(item) for name, item in v.items()}),
    ):
        if isinstance(value, kind):
            return {tag: inner(value)}
    return {type(value).__name__: str(value)}


def seen(method, properties, body):
    """A message as pika shows it: the properties that are set, the headers, where it came from."""
    fields = {name: value for name, value in vars(properties).items() if value is not None}
    headers = fields.pop("headers", None) or {}
    return {
        "properties": fields,
        "headers": {name: tagged(value) for name, value in headers.items()},
        "body": body.hex(),
        "exchange": method.exchange,
        "routing_key": method.routing_key,
        "redelivered": method.redelivered,
    }


class Peer:
    def __init__(self, url):
        parameters = pika.URLParameters(url)
        parameters.blocked_connection_timeout = PATIENCE
        self.connection = pika.BlockingConnection(parameters)
        self.open()

    def open(self):
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()

    def version(self):
        return self.connection._impl.server_properties["version"]

    def publish(self, body="", exchange="", routing_key="", properties=None, headers=None):
        """Publishes with a confirmation. No headers at all unless some are given."""
        fields = dict(properties or {})
        if headers is not None:
            fields["headers"] = {name: untagged(value) for name, value in headers.items()}
        try:
            self.channel.basic_publish(
                exchange, routing_key, bytes.fromhex(body), pika.BasicProperties(**fields), mandatory=True
            )
        except UnroutableError:
            return "unroutable"
        except NackError:
            return "rejected"
        return "confirmed"

    def deliveries(self, queue, count, auto_ack=False):
        """The next messages of a queue, exactly that many."""
        found = []
        for method, properties, body in self.channel.consume(queue, auto_ack=auto_ack, inactivity_timeout=PATIENCE):
            if method is None:
                raise TimeoutError(f"{len(found)} of {count} messages came from {queue} within {PATIENCE} s")
            found.append((method, properties, body))
            if len(found) == count:
                return found

    def read(self, queue, count):
        """Takes that many messages out of a queue."""
        found = self.deliveries(queue, count)
        for method, _, _ in found:
            self.channel.basic_ack(method.delivery_tag)
        self.channel.cancel()
        return [seen(*delivery) for delivery in found]

    def fail(self, queue, how):
        """Takes one message and does not acknowledge it: `nack`, `reject`, or `refuse`, which is a reject for good.

        It gets the message without consuming: a consumer would be handed it again at once.
        """
        deadline = time.monotonic() + PATIENCE
        method = None
        while method is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no message came from {queue} within {PATIENCE} s")
            method, properties, body = self.channel.basic_get(queue)
        if how == "nack":
            self.channel.basic_nack(method.delivery_tag, requeue=True)
        else:
            self.channel.basic_reject(method.delivery_tag, requeue=how == "reject")
        return seen(method, properties, body)

    def queue(self, queue, arguments=None):
        """Declares a durable queue. The broker refuses arguments that differ from those of a queue that is there."""
        table = {name: untagged(value) for name, value in (arguments or {}).items()}
        return self.declared(lambda: self.channel.queue_declare(queue, durable=True, arguments=table))

    def exchange(self, exchange, kind):
        """Declares a durable exchange; refused as a queue is."""
        return self.declared(lambda: self.channel.exchange_declare(exchange, kind, durable=True))

    def declared(self, declare):
        try:
            declare()
        except ChannelClosedByBroker as error:
            self.open()
            return error.reply_text
        return "ok"

    def delete(self, queues=(), exchanges=()):
        for queue in queues:
            self.channel.queue_delete(queue)
        for exchange in exchanges:
            self.channel.exchange_delete(exchange)

    def answer(self, queue):
        """A server: takes one request and answers to the address that it names."""
        ((method, properties, body),) = self.deliveries(queue, 1)
        answer = pika.BasicProperties(correlation_id=properties.correlation_id)
        self.channel.basic_publish("", properties.reply_to, b"answer to " + body, answer, mandatory=True)
        self.channel.basic_ack(method.delivery_tag)
        self.channel.cancel()

    def ask(self, queue, body, correlation_id):
        """A client: asks, and waits for the answer in a queue of its own."""
        replies = self.channel.queue_declare("", exclusive=True).method.queue
        question = pika.BasicProperties(reply_to=replies, correlation_id=correlation_id)
        self.channel.basic_publish("", queue, bytes.fromhex(body), question, mandatory=True)
        return [seen(*delivery) for delivery in self.deliveries(replies, 1, auto_ack=True)]


def main():
    request = json.load(sys.stdin)
    peer = Peer(request["url"])
    results = []
    for step in request["steps"]:
        results.append(getattr(peer, step.pop("do"))(**step))
    peer.connection.close()
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
