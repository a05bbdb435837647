// Uses the client that oapi-codegen makes.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"

	"example/tocsin-client/tocsin"
)

const topic = "jobs.backup"

func set[T any](value T) *T { return &value }

func main() {
	ctx := context.Background()
	authorize := func(_ context.Context, request *http.Request) error {
		request.Header.Set("Authorization", "Bearer "+os.Getenv("TOCSIN_TOKEN"))
		return nil
	}
	client, err := tocsin.NewClientWithResponses(os.Getenv("TOCSIN_URL"), tocsin.WithRequestEditorFn(authorize))
	if err != nil {
		log.Fatal(err)
	}

	key := tocsin.PostAlertParams{IdempotencyKey: set("backup-2026-11-21")}
	failed := tocsin.AlertIn{Title: "Backup failed", Topic: set(topic), Severity: set(tocsin.Error)}
	post := func() (*tocsin.PostAlertResponse, error) { return client.PostAlertWithResponse(ctx, &key, failed) }
	posted := retried(post).JSON201
	fmt.Println("posted", posted.Seq, *posted.Severity)

	nightly := tocsin.PostBatchParams{IdempotencyKey: set("disks-2026-11-21")}
	batch, err := client.PostBatchWithResponse(ctx, &nightly, []tocsin.BatchItem{
		{Title: "Disk is 91 % full", Topic: set(topic), IdempotencyKey: set("disk-91")},
		{Title: "Disk is 97 % full", Topic: set(topic), IdempotencyKey: set("disk-97")},
		{Title: "", Topic: set(topic)},
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, result := range batch.JSON200.Results {
		if result.Code != nil {
			fmt.Println("batch", result.Status, *result.Code)
		} else {
			fmt.Println("batch", result.Status, *result.Seq)
		}
	}

	query := tocsin.GetAlertsParams{Topic: &[]string{topic}, Limit: set(int32(2))}
	for {
		page, err := client.GetAlertsWithResponse(ctx, &query)
		if err != nil {
			log.Fatal(err)
		}
		for _, alert := range page.JSON200.Alerts {
			fmt.Println("listed", alert.Title)
		}
		if query.Cursor = page.JSON200.Next; query.Cursor == nil {
			break
		}
	}

	taken, err := client.AcknowledgeAlertWithResponse(ctx, posted.Id)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("status", taken.JSON200.Status, *taken.JSON200.StatusBy)

	wrong := tocsin.AlertIn{Title: "A title", Topic: set("Not a topic")}
	refused, err := client.PostAlertWithResponse(ctx, &tocsin.PostAlertParams{}, wrong)
	if err != nil {
		log.Fatal(err)
	}
	problem := refused.ApplicationproblemJSON422
	fmt.Println("refused", problem.Status, problem.Code, problem.Code == tocsin.InvalidRequest)

	poll := tocsin.GetEventsParams{After: set("0"), Topic: &[]string{topic}, Wait: set(float32(20))}
	for kind := tocsin.EventKind(""); kind != tocsin.AlertResolved; {
		answer := retried(func() (*tocsin.GetEventsResponse, error) { return client.GetEventsWithResponse(ctx, &poll) })
		for _, event := range answer.JSON200.Events {
			fmt.Println("event", event.Seq, event.Kind, event.Alert.Title)
			kind = event.Kind
		}
		poll.After, poll.Connection = &answer.JSON200.Next, &answer.JSON200.Connection
	}
}
