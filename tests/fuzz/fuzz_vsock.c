// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fuzz the socket device from both sides: as a hostile guest does, with memory that changes meanwhile if the
 * first byte says so, and as the host's services and clients, who send, read, end and leave at any time.  The
 * guest has no more descriptors of the monitor's than its connections are bounded to.
 */
#include <fcntl.h>
#include <linux/virtio_vsock.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "device.h"
#include "karma/devices.h"
#include "karma/util.h"

#define SERVICE_PORT 7u
#define ENDS_MAX (2 * VSOCK_CONNECTIONS_MAX)
#define SENT_MAX 4096u
#define HEADER_BYTES sizeof(struct virtio_vsock_hdr)

static struct vsock_options options = { .on = true, .service_count = 1, .services = { { SERVICE_PORT, NULL } } };
static struct vsock_connector connector;
static char path[64];
static int listener;
static int ends[ENDS_MAX];	/* of the host */
static unsigned end_count;
static uint32_t offers;

static void prepare(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	snprintf(path, sizeof(path), "/tmp/karma-fuzz-vsock.%d", (int)getpid());
	strcpy(address.sun_path, path);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	unlink(path);
	check(bind(listener, (struct sockaddr *)&address, sizeof(address)) == 0);
	check(listen(listener, ENDS_MAX) == 0);
	options.services[0].path = path;
	/* As the monitor does. */
	signal(SIGPIPE, SIG_IGN);
}

static struct virtio_device *create(uint8_t kind)
{
	const struct virtio_environment environment = { &memory, &ring };
	struct virtio_device *device;

	(void)kind;
	vsock_connector_init(&connector, &options);
	check(vsock_connector_open(&connector) == 0);
	device = vsock_create(&environment, &connector);
	check(device);
	return device;
}

static void add_end(int fd)
{
	if (fd >= 0 && end_count < ENDS_MAX)
		ends[end_count++] = fd;
	else
		close_fd(&fd);
}

static void serve_supervisor(void)
{
	struct vsock_message answer;

	while (vsock_connector_watch(&connector).fd >= 0 &&
		recv(connector.sockets[0], &answer, sizeof(answer), MSG_PEEK | MSG_DONTWAIT) > 0)
		vsock_connector_serve(&connector, &answer);
	add_end(accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK));
}

static void offer(uint8_t port)
{
	int pair[2];

	check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
	vsock_connector_offer(&connector, offers++, port, pair[1]);
	close(pair[1]);
	add_end(pair[0]);
}

static void read_end(int fd)
{
	uint8_t bytes[SENT_MAX];

	while (read(fd, bytes, sizeof(bytes)) > 0)
		;
}

static void use_end(uint8_t what, struct script *script)
{
	static const uint8_t bytes[SENT_MAX];
	unsigned index = end_count ? take(script, 1) % end_count : 0;

	if (!end_count)
		return;
	switch (what % 4) {
	case 0:
		send(ends[index], bytes, take(script, 2) % SENT_MAX, MSG_NOSIGNAL | MSG_DONTWAIT);
		break;
	case 1:
		read_end(ends[index]);
		break;
	case 2:
		shutdown(ends[index], take(script, 1) % 3);
		break;
	default:
		close(ends[index]);
		ends[index] = ends[--end_count];
	}
}

/* A packet that is nearly right: few ports, all operations, any credit. */
static void send_packet(struct script *script)
{
	struct virtio_vsock_hdr header = {
		.src_cid = 3,
		.dst_cid = 2,
		.src_port = take(script, 1) % 8,
		.dst_port = SERVICE_PORT,
		.type = VIRTIO_VSOCK_TYPE_STREAM,
	};
	struct segment segments[2] = { { QUEUE_AT(1) + HEADERS, HEADER_BYTES, false },
		{ DATA_AT, 0, false } };
	uint8_t kind = take(script, 1);

	header.op = kind & 0xf;
	header.flags = kind >> 4;
	header.len = segments[1].length = take(script, 2) % QUEUE_BYTES;
	header.buf_alloc = take(script, 4);
	header.fwd_cnt = take(script, 4);
	if (kind & 0x80)
		header.dst_port = 0x40000000u + take(script, 1) % 8;
	memcpy(memory_at(segments[0].address, HEADER_BYTES), &header, HEADER_BYTES);
	driver_chain(&driver, 1, take(script, 1) % driver.sizes[1], false, segments, header.len ? 2 : 1);
	notify_device(driver.device, 1);
}

static void step(uint8_t operation, struct script *script)
{
	switch (operation & 0xf) {
	case 0:
	case 1:
		driver_any_chain(&driver, driver_queue(&driver, operation), script);
		break;
	case 2:
		offer(operation >> 4);
		break;
	case 3:
		use_end(operation >> 4, script);
		break;
	case 4:
		serve_supervisor();
		break;
	default:
		send_packet(script);
	}
}

static void release(void)
{
	serve_supervisor();
	/* The other ends go first, so that all polls that are in flight complete. */
	while (end_count)
		close(ends[--end_count]);
	close(connector.sockets[0]);
	connector.sockets[0] = -1;
	while (ring.eventfd_in_flight)
		io_ring_reap(&ring, true);
	driver.device->ops->release(driver.device);
	vsock_connector_close(&connector);
}

const struct device_fuzzer fuzzer = {
	.ring_entries = VSOCK_IN_FLIGHT,
	.prepare = prepare,
	.create = create,
	.step = step,
	.release = release,
};
