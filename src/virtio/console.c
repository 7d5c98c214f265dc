// SPDX-License-Identifier: GPL-2.0-only
/* The console device: text between the guest's hvc0 and the user's terminal. */
#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>

#include "karma/abi.h"
#include "karma/devices.h"
#include "karma/snapshot.h"
#include "karma/util.h"

#define QUEUE_SIZE 64
#define CHAIN_BUFFERS 64

enum { RECEIVE, TRANSMIT, QUEUES };

struct console {
	struct virtio_device device;
	struct virtio_console_config config;
	struct terminal *terminal;

	/* A chain of the transmit queue that the terminal has not taken all of. */
	struct iovec iov[CHAIN_BUFFERS];
	struct virtq_chain chain;
	bool sending;
	size_t sent;		/* of that chain, or of the next one, if the device is restored */
	bool prints;		/* the guest has printed something since its driver's start */
};

/* Send on the chain at hand; true if all of it went. */
static bool send_chain(struct console *console)
{
	size_t offset = 0;

	for (unsigned i = 0; i < console->chain.out_count; i++) {
		const struct iovec *part = &console->iov[i];
		size_t skip, taken;

		if (console->sent >= offset + part->iov_len) {
			offset += part->iov_len;
			continue;
		}
		skip = console->sent - offset;
		taken = terminal_write(console->terminal, (const char *)part->iov_base + skip,
			part->iov_len - skip);
		console->sent += taken;
		if (taken < part->iov_len - skip)
			return false;
		offset += part->iov_len;
	}
	return true;
}

/* Take the next chain to send, if none is at hand; true if there is one. */
static bool next_chain(struct console *console)
{
	if (!console->sending &&
		virtio_pop(&console->device, &console->device.queues[TRANSMIT], console->iov,
			ARRAY_SIZE(console->iov), &console->chain))
		console->sending = true;
	return console->sending;
}

/* Linux reads the size when it is told of a change, once it has made a terminal of the console. */
static void announce_size(struct console *console)
{
	if (!console->prints && console->config.cols)
		virtio_config_changed(&console->device);
	console->prints = true;
}

static struct console *console_of(struct virtio_device *device)
{
	return container_of(device, struct console, device);
}

/* When the terminal is full, output_ready() goes on from here. */
static enum virtio_step transmit_chain(struct virtq *queue)
{
	struct console *console = console_of(queue->device);

	if (!next_chain(console))
		return VIRTIO_NO_CHAIN;
	if (!send_chain(console))
		return VIRTIO_BLOCKED;
	console->sending = false;
	console->sent = 0;
	virtq_push(queue, console->chain.head, 0);
	return VIRTIO_SERVED;
}

static void transmit(struct console *console)
{
	if (virtio_serve_chains(&console->device.queues[TRANSMIT], transmit_chain))
		announce_size(console);
}

/* When there is no input, input_ready() goes on from here. */
static enum virtio_step receive_chain(struct virtq *queue)
{
	struct console *console = console_of(queue->device);
	struct iovec iov[CHAIN_BUFFERS];
	struct virtq_chain chain;
	char text[TERMINAL_INPUT_BYTES];
	size_t length;

	if (!terminal_has_input(console->terminal))
		return VIRTIO_BLOCKED;
	if (!virtio_pop(&console->device, queue, iov, ARRAY_SIZE(iov), &chain))
		return VIRTIO_NO_CHAIN;
	length = chain.in_bytes < sizeof(text) ? chain.in_bytes : sizeof(text);
	length = terminal_read(console->terminal, text, length);
	iov_write(iov + chain.out_count, chain.in_count, 0, text, length);
	virtq_push(queue, chain.head, length);
	return VIRTIO_SERVED;
}

static void receive(struct console *console)
{
	virtio_serve_chains(&console->device.queues[RECEIVE], receive_chain);
}

static void console_notify(struct virtio_device *device, unsigned queue)
{
	struct console *console = console_of(device);

	if (queue == RECEIVE)
		receive(console);
	else
		transmit(console);
}

static void input_ready(void *context)
{
	struct console *console = context;

	pthread_mutex_lock(&console->device.lock);
	if (virtio_running(&console->device))
		receive(console);
	pthread_mutex_unlock(&console->device.lock);
}

static void output_ready(void *context)
{
	struct console *console = context;

	pthread_mutex_lock(&console->device.lock);
	if (virtio_running(&console->device))
		transmit(console);
	pthread_mutex_unlock(&console->device.lock);
}

static void console_driver_ok(struct virtio_device *device)
{
	struct console *console = console_of(device);

	console->prints = false;
	terminal_escape_sysrq(console->terminal, device->accepted & (1ull << KARMA_CONSOLE_F_SYSRQ));
	receive(console);
}

static void console_reset(struct virtio_device *device)
{
	struct console *console = console_of(device);

	console->sending = false;
	console->sent = 0;
}

static void console_save(const struct virtio_device *device, struct snapshot_writer *to)
{
	const struct console *console = container_of(device, struct console, device);

	snapshot_put_number(to, console->sent);
	snapshot_put_number(to, console->prints);
}

static int console_restore(struct virtio_device *device, struct snapshot_reader *from)
{
	struct console *console = console_of(device);

	console->sent = snapshot_get_number(from);
	console->prints = snapshot_get_number(from);
	terminal_escape_sysrq(console->terminal, device->accepted & (1ull << KARMA_CONSOLE_F_SYSRQ));
	return 0;
}

static const struct virtio_device_ops console_ops = {
	.device_id = VIRTIO_ID_CONSOLE,
	.driver_ok = console_driver_ok,
	.notify = console_notify,
	.reset = console_reset,
	.save = console_save,
	.restore = console_restore,
	.release = virtio_device_free,
};

void console_resized(struct virtio_device *device)
{
	struct console *console = console_of(device);
	unsigned columns, rows;

	if (!terminal_size(console->terminal, &columns, &rows))
		return;
	pthread_mutex_lock(&device->lock);
	if (console->config.cols != columns || console->config.rows != rows) {
		console->config.cols = columns;
		console->config.rows = rows;
		virtio_config_changed(device);
	}
	pthread_mutex_unlock(&device->lock);
}

struct virtio_device *console_create(
	const struct virtio_environment *environment, struct terminal *terminal)
{
	const uint64_t features = 1ull << VIRTIO_CONSOLE_F_SIZE | 1ull << KARMA_CONSOLE_F_SYSRQ;
	struct console *console = virtio_device_create(sizeof(*console), &console_ops, "console",
		features, QUEUES, QUEUE_SIZE, environment);
	unsigned columns, rows;

	if (!console)
		return NULL;
	console->terminal = terminal;
	/* Without one yet, it is 0 times 0, which is a terminal of unknown size to Linux, too. */
	if (terminal_size(terminal, &columns, &rows)) {
		console->config.cols = columns;
		console->config.rows = rows;
	}
	console->device.config = &console->config;
	console->device.config_size = sizeof(console->config);
	console->device.queues[RECEIVE].name = "receive";
	console->device.queues[TRANSMIT].name = "transmit";
	terminal_attach(terminal, input_ready, output_ready, console);
	return &console->device;
}
