package kind

// SharedNote is the code of the note that another order has a platform's number of this one.
const SharedNote = "platform_order.shared"
