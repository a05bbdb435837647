// Uses the client that ogen makes.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"example/tocsin-client/tocsin"
)

const topic = "jobs.backup"

type bearer struct{}

func (bearer) Bearer(context.Context, tocsin.OperationName) (tocsin.Bearer, error) {
	return tocsin.Bearer{Token: os.Getenv("TOCSIN_TOKEN")}, nil
}

// Expected returns the answer if it is the one that is meant, and not a problem.
func expected[T any](answer any, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	meant, ok := answer.(T)
	if !ok {
		log.Fatalf("%T: %v", answer, answer)
	}
	return meant
}

func main() {
	ctx := context.Background()
	client, err := tocsin.NewClient(os.Getenv("TOCSIN_URL"), bearer{})
	if err != nil {
		log.Fatal(err)
	}
	text, in := tocsin.NewOptString, tocsin.NewOptString(topic)

	key := tocsin.PostAlertParams{IdempotencyKey: text("backup-2026-11-21")}
	failed := tocsin.AlertIn{Title: "Backup failed", Topic: in, Severity: tocsin.NewOptSeverity(tocsin.SeverityError)}
	answer := retried(func() (tocsin.PostAlertRes, error) { return client.PostAlert(ctx, &failed, key) })
	posted := tocsin.AlertAnswerHeaders(*expected[*tocsin.PostAlertCreated](answer, nil)).Response
	fmt.Println("posted", posted.Seq, posted.Severity.Value)

	batch, err := client.PostBatch(ctx, []tocsin.BatchItem{
		{Title: "Disk is 91 % full", Topic: in, IdempotencyKey: tocsin.NewOptNilString("disk-91")},
		{Title: "Disk is 97 % full", Topic: in, IdempotencyKey: tocsin.NewOptNilString("disk-97")},
		{Title: "", Topic: in},
	}, tocsin.PostBatchParams{IdempotencyKey: text("disks-2026-11-21")})
	for _, result := range expected[*tocsin.BatchAnswerHeaders](batch, err).Response.Results {
		if result.Code.Set {
			fmt.Println("batch", result.Status, result.Code.Value)
		} else {
			fmt.Println("batch", result.Status, result.Seq.Value)
		}
	}

	query := tocsin.GetAlertsParams{Topic: []string{topic}, Limit: tocsin.NewOptInt32(2)}
	for {
		answer, err := client.GetAlerts(ctx, query)
		page := expected[*tocsin.AlertPage](answer, err)
		for _, alert := range page.Alerts {
			fmt.Println("listed", alert.Title)
		}
		if page.Next.Null {
			break
		}
		query.Cursor = text(page.Next.Value)
	}

	taken, err := client.AcknowledgeAlert(ctx, tocsin.AcknowledgeAlertParams{AlertID: posted.ID})
	alert := expected[*tocsin.AlertAnswer](taken, err)
	fmt.Println("status", alert.Status, alert.StatusBy.Value)

	wrong := tocsin.AlertIn{Title: "A title", Topic: text("Not a topic")}
	refused, err := client.PostAlert(ctx, &wrong, tocsin.PostAlertParams{})
	problem := tocsin.Problem(*expected[*tocsin.PostAlertUnprocessableEntity](refused, err))
	fmt.Println("refused", problem.Status, problem.Code, problem.Code == tocsin.ProblemCodeInvalidRequest)

	poll := tocsin.GetEventsParams{After: text("0"), Topic: []string{topic}, Wait: tocsin.NewOptFloat64(20)}
	for kind := tocsin.EventKind(""); kind != tocsin.EventKindAlertResolved; {
		answer := retried(func() (tocsin.GetEventsRes, error) { return client.GetEvents(ctx, poll) })
		polled := expected[*tocsin.PollOut](answer, nil)
		for _, event := range polled.Events {
			fmt.Println("event", event.Seq, event.Kind, event.Alert.Title)
			kind = event.Kind
		}
		poll.After, poll.Connection = text(polled.Next), tocsin.NewOptUUID(polled.Connection)
	}
}
