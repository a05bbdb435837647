import java.math.BigDecimal;
import java.util.List;
import java.util.UUID;
import java.util.concurrent.Callable;
import org.openapitools.client.ApiClient;
import org.openapitools.client.ApiException;
import org.openapitools.client.api.AlertsApi;
import org.openapitools.client.api.StreamApi;
import org.openapitools.client.model.*;

/** Uses the client that openapi-generator makes; Library has what depends on its library. */
public class Program {
    static final String TOPIC = "jobs.backup";

    /** Calls until an answer arrives: the connection may break, and a request has its key. */
    static <T> T retried(Callable<T> call) throws Exception {
        for (int attempt = 0; ; attempt++) {
            try {
                return call.call();
            } catch (ApiException error) {
                if (error.getCode() != 0 || attempt == 5) throw error;
                System.err.println(error);
                Thread.sleep(100);
            }
        }
    }

    public static void main(String[] arguments) throws Exception {
        ApiClient client = Library.connect(System.getenv("TOCSIN_URL"), System.getenv("TOCSIN_TOKEN"));
        AlertsApi alerts = new AlertsApi(client);

        AlertIn failed = new AlertIn().title("Backup failed").topic(TOPIC).severity(Severity.ERROR);
        AlertAnswer posted = retried(() -> alerts.postAlert(failed, "backup-2026-11-21"));
        System.out.println("posted " + posted.getSeq() + " " + posted.getSeverity());

        BatchAnswer batch = alerts.postBatch(List.of(
                new BatchItem().title("Disk is 91 % full").topic(TOPIC).idempotencyKey("disk-91"),
                new BatchItem().title("Disk is 97 % full").topic(TOPIC).idempotencyKey("disk-97"),
                new BatchItem().title("").topic(TOPIC)), "disks-2026-11-21");
        for (BatchResult result : batch.getResults()) {
            Object shown = result.getCode() != null ? result.getCode() : result.getSeq();
            System.out.println("batch " + result.getStatus() + " " + shown);
        }

        String cursor = null;
        do {
            AlertPage page = alerts.getAlerts(
                    List.of(TOPIC), null, null, null, null, null, null, null, null, null, null, cursor, 2);
            page.getAlerts().forEach(alert -> System.out.println("listed " + alert.getTitle()));
            cursor = page.getNext();
        } while (cursor != null);

        AlertAnswer taken = alerts.acknowledgeAlert(posted.getId());
        System.out.println("status " + taken.getStatus() + " " + taken.getStatusBy());

        try {
            alerts.postAlert(new AlertIn().title("A title").topic("Not a topic"), null);
        } catch (ApiException error) {
            Problem problem = Library.problem(error);
            boolean isInvalid = problem.getCode() == Problem.CodeEnum.INVALID_REQUEST;
            System.out.println("refused " + problem.getStatus() + " " + problem.getCode() + " " + isInvalid);
        }

        StreamApi stream = new StreamApi(client);
        String after = "0";
        UUID connection = null;
        for (EventKind kind = null; kind != EventKind.ALERT_RESOLVED; ) {
            String from = after;
            UUID on = connection;
            PollOut answer = retried(() -> stream.getEvents(from, List.of(TOPIC), null, null, new BigDecimal(20), on, null));
            for (EventOut event : answer.getEvents()) {
                System.out.println("event " + event.getSeq() + " " + event.getKind() + " " + event.getAlert().getTitle());
                kind = event.getKind();
            }
            after = answer.getNext();
            connection = answer.getConnection();
        }
        System.exit(0); // OkHttp's threads would wait for a minute.
    }
}
