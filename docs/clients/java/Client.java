import com.google.gson.Gson;
import com.google.gson.JsonArray;
import com.google.gson.JsonObject;
import com.google.gson.JsonSyntaxException;
import java.io.IOException;
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
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

/** Posts alerts to Tocsin, handles them, and follows the stream. Java 11 and Gson are needed. */
public final class Client {
    /** The reasons of a close after which reconnecting does not help. */
    private static final Set<String> FINAL = Set.of(
            "scope_missing", "topic_forbidden", "origin_forbidden", "kicked",
            "invalid_request", "bad_message", "binary_message", "invalid_utf8", "message_too_big");

    private static final Set<Integer> TRANSIENT = Set.of(429, 502, 503, 504);
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

    /** Waits for a random time that doubles with each attempt, up to 30 seconds. */
    private static void backOff(int attempt) throws InterruptedException {
        Thread.sleep(ThreadLocalRandom.current().nextLong(Math.min(1000L << Math.min(attempt, 5), 30_000)));
    }

    /**
     * Sends a request and returns the answer. For a minute it is sent again, which stores nothing twice: alerts have
     * their keys, and an action that is repeated changes nothing.
     */
    private JsonObject call(String method, String path, String key, Object body)
            throws Refused, IOException, InterruptedException {
        Instant deadline = Instant.now().plusSeconds(60);
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
                if (!TRANSIENT.contains(response.statusCode()) || Instant.now().isAfter(deadline)) {
                    throw refusal(response);
                }
                Thread.sleep(1000 * response.headers().firstValueAsLong("Retry-After").orElse(0));
            } catch (IOException error) {
                if (Instant.now().isAfter(deadline)) {
                    throw error;
                }
            }
            backOff(attempt);
        }
    }

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
    private List<JsonObject> list(String topic) throws Refused, IOException, InterruptedException {
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

    /** Calls {@code handle} with each event after a cursor, over as many connections as it takes. */
    private void follow(String topic, String after, Consumer<JsonObject> handle)
            throws Refused, InterruptedException {
        String[] cursor = {after};
        for (int attempt = 0; ; attempt++) {
            Connection connection = new Connection();
            try {
                connection.follow(topic, cursor, handle);
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

        void follow(String topic, String[] cursor, Consumer<JsonObject> handle)
                throws Refused, IOException, InterruptedException {
            String query = "?topic=" + encoded(topic) + "&after=" + encoded(cursor[0]);
            WebSocket socket = http.newWebSocketBuilder()
                    .connectTimeout(Duration.ofSeconds(10))
                    .header("Authorization", "Bearer " + token())
                    .subprotocols("tocsin.v1")
                    .buildAsync(URI.create(base.replaceFirst("http", "ws") + "/v1/ws" + query), this)
                    .join();
            try {
                long silence = 60_000;
                long handled = 0;
                long acknowledged = 0;
                Instant at = Instant.EPOCH;
                while (true) {
                    JsonObject frame = next(silence);
                    socket.request(1);
                    String type = frame.get("type").getAsString();
                    if (type.equals("welcome")) {
                        isWelcome = true;
                        silence = (long) (2500 * frame.get("heartbeat_seconds").getAsDouble());
                    } else if (type.equals("event")) {
                        handle.accept(frame);
                        handled = frame.get("seq").getAsLong();
                    } else if (type.equals("gap") || type.equals("reset")) {
                        System.err.println("load the list again: " + frame);
                    }
                    if (frame.has("cursor")) {
                        cursor[0] = frame.get("cursor").getAsString();
                    }
                    if (handled > acknowledged && at.plusSeconds(1).isBefore(Instant.now())) {
                        // The next heartbeat brings the rest.
                        socket.sendText("{\"type\":\"ack\",\"seq\":" + handled + "}", true).join();
                        acknowledged = handled;
                        at = Instant.now();
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

    private static String encoded(String text) {
        return URLEncoder.encode(text, StandardCharsets.UTF_8);
    }

    private static Map<String, String> alert(String title, String key) {
        return Map.of("title", title, "topic", "jobs.backup", "severity", "warning", "idempotency_key", key);
    }

    public static void main(String[] arguments) throws Exception {
        Client tocsin = new Client(System.getenv("TOCSIN_URL"), System.getenv("TOCSIN_JWT_SECRET"));

        // The key names what happened, so that a second run of the program does not post it again.
        Map<String, String> failed = Map.of("title", "Backup failed", "topic", "jobs.backup", "severity", "error");
        JsonObject posted = tocsin.call("POST", "/v1/alerts", "backup-2026-11-21", failed);
        System.out.println("posted " + posted.get("seq").getAsLong());

        List<?> alerts = List.of(alert("Disk is 91 % full", "disk-91"), alert("Disk is 97 % full", "disk-97"), alert("", "none"));
        JsonArray results = tocsin.call("POST", "/v1/alerts/batch", null, alerts).getAsJsonArray("results");
        for (int index = 0; index < results.size(); index++) {
            JsonObject result = results.get(index).getAsJsonObject();
            String code = result.has("code") ? " " + result.get("code").getAsString() : "";
            System.out.println("batch " + result.get("status").getAsInt() + code);
        }

        for (JsonObject one : tocsin.list("jobs.backup")) {
            System.out.println("listed " + one.get("title").getAsString());
        }

        JsonObject taken = tocsin.call("POST", "/v1/alerts/" + posted.get("id").getAsString() + "/acknowledge", null, null);
        System.out.println("status " + taken.get("status").getAsString() + " " + taken.get("status_by").getAsString());

        try {
            tocsin.call("POST", "/v1/alerts", "title-1", Map.of("title", "A title", "topic", "Not a topic"));
        } catch (Refused refused) {
            System.out.println("refused " + refused.status + " " + refused.code);
        }

        tocsin.follow("jobs.backup", "0", event -> System.out.println("event " + event.get("seq").getAsLong() + " "
                + event.get("kind").getAsString() + " " + event.getAsJsonObject("alert").get("title").getAsString()));
    }
}
