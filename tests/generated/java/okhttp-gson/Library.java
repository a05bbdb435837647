import org.openapitools.client.ApiClient;
import org.openapitools.client.ApiException;
import org.openapitools.client.model.Problem;

/** The library OkHttp, with Gson. */
class Library {
    static ApiClient connect(String base, String token) {
        ApiClient client = new ApiClient().setBasePath(base);
        client.setBearerToken(token);
        return client.setReadTimeout(30_000); // 10 s by default, less than a poll waits.
    }

    static Problem problem(ApiException error) throws Exception {
        return Problem.fromJson(error.getResponseBody());
    }
}
