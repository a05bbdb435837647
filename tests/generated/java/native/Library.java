import org.openapitools.client.ApiClient;
import org.openapitools.client.ApiException;
import org.openapitools.client.model.Problem;

/** The library java.net.http, with Jackson. */
class Library {
    static ApiClient connect(String base, String token) {
        ApiClient client = new ApiClient();
        client.updateBaseUri(base);
        return client.setRequestInterceptor(request -> request.header("Authorization", "Bearer " + token));
    }

    static Problem problem(ApiException error) throws Exception {
        return ApiClient.createDefaultObjectMapper().readValue(error.getResponseBody(), Problem.class);
    }
}
