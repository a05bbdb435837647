import com.google.gson.Gson;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonSyntaxException;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.WebSocket;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletionException;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import java.util.stream.Stream;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

/**
 * Posts alerts to Tocsin, handles them, and follows the stream. Java 11 and Gson are needed.
 *
 * <pre>
 *   Client                                 shows each operation once, then follows
 *   Client post                            posts an alert for each job that failed, a JSON object a line of standard input
 *   Client follow CONSUMER TOPIC [AFTER]   handles the events of a topic
 * </pre>
 */
public final class Client {
    private static final Gson GSON = new Gson();

    private final HttpClient http = HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(10)).build();
    private final String base;
    private final byte[] secret;

    Client(String base, String secret) {
        this.base = base;
        this.secret = secret.getBytes(StandardCharsets.UTF_8);
    }

    /** A refusal: a problem document (RFC 9457), or a close of the stream, whose status is 0. */
    static final class Refused extends Exception {
        private static final long serialVersionUID = 1;
        final int status;
        final String code;

        Refused(int status, String code, String detail) {
            super(status + " " + code + ": " + detail);
            this.status = status;
            this.code = code;
        }
    }

    /** Mints a token that is valid for five minutes. */
    private String token() {
        long now = Instant.now().getEpochSecond();
        String claims = GSON.toJson(Map.of(
                "sub", "java", "iss", "tocsin", "aud", "tocsin", "iat", now, "exp", now + 300,
                "scope", "alerts:write alerts:read alerts:manage"));
        Base64.Encoder base64 = Base64.getUrlEncoder().withoutPadding();
        String signed = base64.encodeToString("{\"alg\":\"HS256\",\"typ\":\"JWT\"}".getBytes(StandardCharsets.UTF_8))
                + "." + base64.encodeToString(claims.getBytes(StandardCharsets.UTF_8));
        try {
            Mac mac = Mac.getInstance("HmacSHA256");
            mac.init(new SecretKeySpec(secret, "HmacSHA256"));
            return signed + "." + base64.encodeToString(mac.doFinal(signed.getBytes(StandardCharsets.UTF_8)));
        } catch (GeneralSecurityException error) {
            throw new IllegalStateException(error);
        }
    }

    // --8<-- [start:post]

    private static final Set<Integer> TRANSIENT = Set.of(429, 502, 503, 504);

    /** Posts an alert for each job that failed. */
    private void postAll(Iterable<JsonObject> queue) throws Refused, InterruptedException {
        for (JsonObject failed : queue) {
            String job = failed.get("job").getAsString();
            Map<String, ?> alert = Map.of(
                    "title", job + " failed", "topic", "jobs." + job, "severity", "error", "attributes", failed);
            String key = job + "/" + failed.get("run").getAsLong(); // What happened; the same in each attempt.
            try {
                JsonObject posted = call("POST", "/v1/alerts", key, alert);
                System.out.println("stored " + posted.get("seq").getAsLong()); // Now remove it from the queue.
            } catch (Refused refused) {
                if (refused.status == 401 || refused.status == 403) {
                    throw refused; // The token is wrong, and no alert would be stored.
                }
                System.out.println("refused " + refused.status + " " + refused.code); // Put it aside.
            }
        }
    }

    /**
     * Sends a request until it is answered or refused, and returns the answer. Nothing is stored twice: alerts have
     * their keys, and an action that is repeated changes nothing.
     */
    private JsonObject call(String method, String path, String key, Object body) throws Refused, InterruptedException {
        for (int attempt = 0; ; attempt++) {
            HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(base + path))
                    .timeout(Duration.ofSeconds(30))
                    .header("Authorization", "Bearer " + token());
            if (key != null) {
                request.header("Idempotency-Key", key);
            }
            if (body == null) {
                request.method(method, HttpRequest.BodyPublishers.noBody());
            } else {
                request.header("Content-Type", "application/json");
                request.method(method, HttpRequest.BodyPublishers.ofString(GSON.toJson(body)));
            }
            try {
                HttpResponse<String> response = http.send(request.build(), HttpResponse.BodyHandlers.ofString());
                if (response.statusCode() < 300) {
                    return GSON.fromJson(response.body(), JsonObject.class);
                }
                if (!TRANSIENT.contains(response.statusCode())) {
                    throw refusal(response);
                }
                System.err.println("again: " + response);
                String wait = response.headers().firstValue("Retry-After").orElse("0");
                Thread.sleep(wait.matches("[0-9]{1,6}") ? 1000 * Long.parseLong(wait) : 0);
            } catch (IOException error) {
                System.err.println("again: " + error);
            }
            backOff(attempt);
        }
    }

    /** Waits for a random time that doubles with each attempt, up to 30 seconds. */
    private static void backOff(int attempt) throws InterruptedException {
        Thread.sleep(ThreadLocalRandom.current().nextLong(Math.min(1000L << Math.min(attempt, 5), 30_000)));
    }

    // --8<-- [end:post]

    /** Decodes a problem document; what a proxy answers in its stead has no code. */
    private static Refused refusal(HttpResponse<String> response) {
        try {
            JsonObject problem = GSON.fromJson(response.body(), JsonObject.class);
            String detail = problem.has("detail") ? problem.get("detail").getAsString() : "";
            return new Refused(response.statusCode(), problem.get("code").getAsString(), detail);
        } catch (JsonSyntaxException | NullPointerException notAProblem) {
            return new Refused(response.statusCode(), "", response.body());
        }
    }

    /** Returns the alerts of a topic, newest first, over all pages. */
    private List<JsonObject> list(String topic) throws Refused, InterruptedException {
        List<JsonObject> alerts = new ArrayList<>();
        String query = "?limit=2&topic=" + encoded(topic);
        String cursor = "";
        while (true) {
            JsonObject page = call("GET", "/v1/alerts" + query + cursor, null, null);
            page.getAsJsonArray("alerts").forEach(alert -> alerts.add(alert.getAsJsonObject()));
            if (page.get("next").isJsonNull()) {
                return alerts;
            }
            cursor = "&cursor=" + encoded(page.get("next").getAsString());
        }
    }

    // --8<-- [start:follow]

    /** The reasons of a close after which reconnecting does not help. */
    private static final Set<String> FINAL = Set.of(
            "scope_missing", "topic_forbidden", "origin_forbidden", "consumer_limit", "kicked",
            "invalid_request", "bad_message", "binary_message", "invalid_utf8", "message_too_big");

    /**
     * Calls {@code handle} with each event of a topic, over as many connections as it takes. Without a cursor in
     * {@code after} it begins where the consumer ended.
     */
    private void follow(String consumer, String topic, String after, Consumer<JsonObject> handle)
            throws Refused, InterruptedException {
        String query = "?consumer=" + encoded(consumer) + "&topic=" + encoded(topic);
        String[] cursor = {after};
        for (int attempt = 0; ; attempt++) {
            Connection connection = new Connection();
            try {
                connection.follow(query, cursor, handle);
            } catch (IOException | CompletionException error) {
                System.err.println("reconnecting: " + error);
            } catch (Refused refused) {
                if (FINAL.contains(refused.code)) {
                    throw refused;
                }
                System.err.println("reconnecting: " + refused.getMessage());
            }
            attempt = connection.isWelcome ? 0 : attempt;
            backOff(attempt);
        }
    }

    /** One connection of the stream. The messages are handled by the thread that calls {@link #follow}. */
    private final class Connection implements WebSocket.Listener {
        private final BlockingQueue<Object> received = new LinkedBlockingQueue<>();
        private final StringBuilder parts = new StringBuilder();
        private boolean isWelcome;

        @Override
        public CompletionStage<?> onText(WebSocket socket, CharSequence data, boolean last) {
            parts.append(data); // A message comes in parts, however long it is.
            if (last) {
                received.add(GSON.fromJson(parts.toString(), JsonObject.class));
                parts.setLength(0);
            } else {
                socket.request(1);
            }
            return null;
        }

        @Override
        public CompletionStage<?> onClose(WebSocket socket, int code, String reason) {
            received.add(new Refused(0, reason.split(":")[0], "the stream was closed with " + code));
            return null;
        }

        @Override
        public void onError(WebSocket socket, Throwable error) {
            received.add(new IOException(error));
        }

        void follow(String query, String[] cursor, Consumer<JsonObject> handle)
                throws Refused, IOException, InterruptedException {
            String after = cursor[0] == null ? "" : "&after=" + encoded(cursor[0]);
            WebSocket socket = http.newWebSocketBuilder()
                    .connectTimeout(Duration.ofSeconds(10))
                    .header("Authorization", "Bearer " + token())
                    .subprotocols("tocsin.v1")
                    .buildAsync(URI.create(base.replaceFirst("http", "ws") + "/v1/ws" + query + after), this)
                    .join();
            try {
                long silence = 60_000;
                while (true) {
                    JsonObject frame = next(silence);
                    socket.request(1); // One more may arrive during the work, and no further ones.
                    String type = frame.get("type").getAsString();
                    if (type.equals("welcome")) {
                        isWelcome = true;
                        silence = (long) (2500 * frame.get("heartbeat_seconds").getAsDouble());
                    } else if (type.equals("event")) {
                        handle.accept(frame);
                    } else if (type.equals("gap") || type.equals("reset")) {
                        System.err.println("load the list of alerts: " + frame);
                    }
                    if (frame.has("cursor")) {
                        cursor[0] = frame.get("cursor").getAsString();
                    }
                    if (type.equals("event")) {
                        socket.sendText("{\"type\":\"ack\",\"seq\":" + frame.get("seq") + "}", true).join();
                    }
                }
            } finally {
                socket.abort();
            }
        }

        /** Returns the next frame; throws what ended the connection, or that nothing arrived. */
        private JsonObject next(long silence) throws Refused, IOException, InterruptedException {
            Object item = received.poll(silence, TimeUnit.MILLISECONDS);
            if (item instanceof JsonObject) {
                return (JsonObject) item;
            }
            if (item instanceof Refused) {
                throw (Refused) item;
            }
            throw item instanceof IOException ? (IOException) item : new IOException("nothing arrived");
        }
    }

    // --8<-- [end:follow]

    private static String encoded(String text) {
        return URLEncoder.encode(text, StandardCharsets.UTF_8);
    }

    private static Map<String, String> alert(String title, String key) {
        return Map.of("title", title, "topic", "jobs.backup", "severity", "warning", "idempotency_key", key);
    }

    /** Takes as long as the job says. */
    private static void work(JsonObject event) {
        JsonObject alert = event.getAsJsonObject("alert");
        JsonElement seconds = alert.getAsJsonObject("attributes").get("seconds");
        try {
            Thread.sleep(seconds == null ? 0 : (long) (1000 * seconds.getAsDouble()));
        } catch (InterruptedException stopped) {
            throw new IllegalStateException(stopped);
        }
        System.out.println("event " + event.get("seq").getAsLong() + " " + event.get("kind").getAsString() + " "
                + alert.get("title").getAsString());
    }

    public static void main(String[] arguments) throws Exception {
        Client tocsin = new Client(System.getenv("TOCSIN_URL"), System.getenv("TOCSIN_JWT_SECRET"));
        if (arguments.length == 1 && arguments[0].equals("post")) {
            Stream<String> lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8)).lines();
            tocsin.postAll(lines.map(line -> GSON.fromJson(line, JsonObject.class))::iterator);
        } else if (arguments.length >= 3 && arguments[0].equals("follow")) {
            tocsin.follow(arguments[1], arguments[2], arguments.length > 3 ? arguments[3] : null, Client::work);
        } else {
            tocsin.tour();
        }
    }

    /** Shows each operation once. */
    private void tour() throws Exception {
        // The key names what happened, so that a second run of the program does not post it again.
        Map<String, String> failed = Map.of("title", "Backup failed", "topic", "jobs.backup", "severity", "error");
        JsonObject posted = call("POST", "/v1/alerts", "backup-2026-11-21", failed);
        System.out.println("posted " + posted.get("seq").getAsLong());

        List<?> alerts = List.of(alert("Disk is 91 % full", "disk-91"), alert("Disk is 97 % full", "disk-97"), alert("", "none"));
        JsonArray results = call("POST", "/v1/alerts/batch", null, alerts).getAsJsonArray("results");
        for (int index = 0; index < results.size(); index++) {
            JsonObject result = results.get(index).getAsJsonObject();
            String code = result.has("code") ? " " + result.get("code").getAsString() : "";
            System.out.println("batch " + result.get("status").getAsInt() + code);
        }

        for (JsonObject one : list("jobs.backup")) {
            System.out.println("listed " + one.get("title").getAsString());
        }

        JsonObject taken = call("POST", "/v1/alerts/" + posted.get("id").getAsString() + "/acknowledge", null, null);
        System.out.println("status " + taken.get("status").getAsString() + " " + taken.get("status_by").getAsString());

        try {
            call("POST", "/v1/alerts", "title-1", Map.of("title", "A title", "topic", "Not a topic"));
        } catch (Refused refused) {
            System.out.println("refused " + refused.status + " " + refused.code);
        }

        follow("tour", "jobs.backup", "0", Client::work);
    }
}
