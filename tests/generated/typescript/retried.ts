/** Calls until an answer arrives: the connection may break, and a request has its key. */
export async function retried<T>(call: () => Promise<T>): Promise<T> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await call();
    } catch (error) {
      if (attempt === 5) throw error;
      console.error(error);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}
