/* Baseline (b), the kernel's ceiling: a plain loop that sends prepared bytes to every socket.
 *
 *     send_loop PORT FRAME_FILE
 *
 * A connection whose first byte is S is a subscriber, and is answered "+". On any other each byte 1 sends the frame to
 * every subscriber, and each byte 5 fifty frames joined.
 *
 * It is in C because the same loop in Python takes 14 % more CPU for a send (median of 18 trials of each, in turns). */

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SUBSCRIBERS_MAX = 20000, JOINED = 50, FRAME_MAX = 65536 };

static int subscribers[SUBSCRIBERS_MAX];
static char frames[JOINED * FRAME_MAX];

static void send_all(int fd, const char *data, size_t size) {
    while (size > 0) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
        if (sent < 0) exit(0);
        data += sent;
        size -= (size_t)sent;
    }
}

int main(int count, char **arguments) {
    if (count != 3) return 2;
    FILE *file = fopen(arguments[2], "rb");
    if (file == NULL) return 1;
    size_t size = fread(frames, 1, FRAME_MAX, file);
    fclose(file);
    for (int i = 1; i < JOINED; i++) memcpy(frames + (size_t)i * size, frames, size);

    int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1, subscribed = 0;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(arguments[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 2048) < 0) return 1;
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        char command;
        if (fd < 0) return 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        while (recv(fd, &command, 1, 0) == 1) {
            if (command == 'S') {
                if (subscribed == SUBSCRIBERS_MAX) return 1;
                subscribers[subscribed++] = fd;
                send_all(fd, "+", 1);
                fd = -1;
                break;
            }
            for (int i = 0; i < subscribed; i++) send_all(subscribers[i], frames, command == '5' ? size * JOINED : size);
        }
        if (fd >= 0) close(fd);
    }
}
