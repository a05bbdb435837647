import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.time.Duration;

/** Posts alerts, each with a new client of Java's defaults, which offers h2c: a body of each kind. */
public final class OffersOfJava {
    public static void main(String[] arguments) throws Exception {
        String base = arguments[0];
        String token = arguments[1];
        post(base, token, "small", 0, false, false);
        post(base, token, "large", 200_000, false, false);
        post(base, token, "chunked", 200_000, true, false);
        post(base, token, "expecting", 200_000, false, true);
    }

    private static void post(String base, String token, String title, int spaces, boolean chunked, boolean expects)
            throws Exception {
        String alert = "{\"title\":\"" + title + "\"" + " ".repeat(spaces) + "}";
        byte[] content = alert.getBytes(StandardCharsets.UTF_8);
        BodyPublisher body = chunked
                ? BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(content))
                : BodyPublishers.ofByteArray(content);
        HttpRequest request = HttpRequest.newBuilder(URI.create(base + "/v1/alerts"))
                .header("Authorization", "Bearer " + token)
                .header("Content-Type", "application/json")
                .timeout(Duration.ofSeconds(30))
                .expectContinue(expects)
                .POST(body)
                .build();
        HttpClient client = HttpClient.newHttpClient();
        HttpResponse<String> response = client.send(request, HttpResponse.BodyHandlers.ofString());
        System.out.println(title + " " + response.statusCode());
    }
}
